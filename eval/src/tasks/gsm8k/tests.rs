//! Answers scored by hand.

use super::*;

/// Scored by hand.
#[test]
fn responses_to_answers() {
    let rows = [
        ("", None),
        ("I do not know.", None),
        ("She makes 9 * 2 = $18.\n#### 18", Some("18")),
        ("#### 1,234", Some("1234")),
        ("#### $1,234.00", Some("1234")),
        ("#### -5", Some("-5")),
        ("#### 18 dollars, not 20", Some("18")),
        ("####18.", Some("18")),
        ("#### **18**\nLet me know if 3 more examples help.", Some("18")),
        ("#### Step 1: add 2 and 3\n#### Step 2: the answer is 5", Some("5")),
        ("#### 12\nWait, that is wrong.\n#### 13", Some("13")),
        ("#### 1. Find the cost\n#### 2. Compute the rest\n\\boxed{42}", Some("42")),
        ("#### **1. Add**\n#### 2) Double\n#### 3: Check\nSo 10 are left", Some("10")),
        ("#### 1. Add\n2 + 3 = 5\n#### $42.", Some("42")),
        ("#### 1.5 hours", Some("1.5")),
        ("Therefore \\boxed{18}.", Some("18")),
        ("\\[ \\boxed{\\$1,800} \\] after 3 weeks", Some("1800")),
        ("\\boxed{x = 18\\text{ m}^2}", Some("18")),
        ("\\boxed{18\\text{ dollars in } 2 \\text{ days}}", Some("18")),
        ("first \\boxed{3}, finally \\boxed{4}", Some("4")),
        ("\\boxed{\\frac{3}{4}} of 100", Some("0.75")),
        ("\\boxed{unfinished 7", Some("7")),
        ("The answer is 18. Note that 2 + 2 = 4.", Some("18")),
        ("The answer is 5, because 5 x 3 = 15.", Some("5")),
        ("The answer is 5 since 5 * 3 = 15", Some("5")),
        ("The answer is 5 (5 * 3 = 15).", Some("5")),
        ("The answer is, then, 2 + 3 = 5; 5 + 1 = 6", Some("5")),
        ("The answer is 3\\frac12.", Some("3.5")),
        ("So \\boxed{-3 \\frac{1}{2}}", Some("-3.5")),
        ("He needs 3 1/2 cups", Some("3.5")),
        ("\\boxed{-\\frac{3}{4}}", Some("-0.75")),
        ("The answer is $18.50.", Some("18.5")),
        ("The final ANSWER IS: **42** apples", Some("42")),
        ("So the answer is 5 + 6 = 11 eggs.", Some("11")),
        ("The answer is simple.\nWe get 7 cats and 9 dogs", Some("9")),
        ("**Answer:** 60 km/h", Some("60")),
        ("Answer: \\( 2.0 \\)", Some("2")),
        ("The answer is 12\n\n30 is wrong", Some("12")),
        ("He has 20 - 3 = 17 left", Some("17")),
        ("It drops to -3 degrees", Some("-3")),
        ("It drops by 10-3", Some("3")),
        ("He ran 1/2 of it", Some("0.5")),
        ("That makes 50%.", Some("50")),
        ("In total, 1,000,000 people", Some("1000000")),
        ("naïve café costs €3,50", Some("50")),
        ("The answer is −4 °C", Some("-4")),
    ];
    for (response, expected) in rows {
        assert_eq!(extract(response).as_deref(), expected, "{response:?}");
    }
}

#[test]
fn gold_answers() {
    let rows = [
        ("Natalia sold 48/2 = <<48/2=24>>24 clips.\n#### 72", Some("72")),
        ("#### 1,050", Some("1050")),
        ("#### -3", Some("-3")),
        ("72", Some("72")),
        ("none", None),
    ];
    for (gold, expected) in rows {
        assert_eq!(super::gold(gold).as_deref(), expected, "{gold:?}");
    }
}
