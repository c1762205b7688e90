//! Answers scored by hand.

/// Gold answer, response, whether it is right.
#[test]
fn numbers_are_equal_by_value() {
    let rows = [
        // Numbers.
        ("2", "\\boxed{2}", true),
        ("2", "\\boxed{2.0}", true),
        ("2", "\\boxed{-2}", false),
        ("\\frac{1}{2}", "\\boxed{0.5}", true),
        ("\\frac{1}{2}", "\\boxed{\\dfrac{1}{2}}", true),
        ("\\frac{1}{2}", "\\boxed{\\frac12}", true),
        ("\\frac{1}{2}", "\\boxed{1/2}", true),
        ("\\frac{1}{2}", "\\boxed{\\frac{2}{4}}", true),
        ("\\frac{1}{2}", "\\boxed{\\frac{2}{1}}", false),
        ("-\\frac{3}{4}", "\\boxed{\\frac{-3}{4}}", true),
        ("-\\frac{3}{4}", "\\boxed{-0.75}", true),
        ("\\frac{3}{56}", "\\boxed{\\tfrac{3}{56}}", true),
        ("3\\frac{1}{2}", "\\boxed{3.5}", true),
        ("\\frac{7}{2}", "\\boxed{3\\frac{1}{2}}", true),
        ("11\\frac15", "\\boxed{\\frac{56}{5}}", true),
        ("1,234", "\\boxed{1234}", true),
        ("10,\\!080", "\\boxed{10080}", true),
        ("10{,}080", "\\boxed{10,080}", true),
        (".35625", "\\boxed{0.35625}", true),
        ("0.333", "\\boxed{\\frac13}", false),
        ("-\\frac12", "\\boxed{\\frac{-1}{2}}", true),
        ("5", "\\boxed{---5}", false),
        ("5", "\\boxed{(--5)}", true),
        // Units, currency, signs.
        ("42", "\\boxed{42\\text{ cm}}", true),
        ("15\\mbox{ cm}^2", "\\boxed{15}", true),
        ("864 \\mbox{ inches}^2", "\\boxed{864}", true),
        ("5.4 \\text{ cents}", "\\boxed{5.4}", true),
        ("\\$32,\\!348", "\\boxed{\\$32348}", true),
        ("90^\\circ", "\\boxed{90}", true),
        ("90", "\\boxed{90^{\\circ}}", true),
        ("50\\%", "\\boxed{50}", true),
        ("12", "\\boxed{12\\text{ square units}}", true),
        ("12", "\\boxed{12 cm}", true),
        ("6", "\\boxed{6x}", false),
        ("6", "\\boxed{6xy}", false),
        ("12", "\\boxed{12 cm^2}", true),
        ("12", "\\boxed{12 inches^{3}}", true),
        ("12", "\\boxed{12x^2}", false),
        ("10080", "\\boxed{10,080 cm}", true),
    ];
    check(&rows);
}

#[test]
fn words_and_expressions_are_equal_by_their_normal_form() {
    let rows = [
        // Words.
        ("\\text{Evelyn}", "\\boxed{\\text{Evelyn}}", true),
        ("\\text{Evelyn}", "\\boxed{Evelyn}", true),
        ("\\text{Evelyn}", "\\boxed{Evan}", false),
        ("\\text{not possible}", "\\boxed{Not possible}", true),
        ("\\text{(C)}", "\\boxed{\\text{C}}", true),
        ("\\text{(C)}", "\\boxed{C}", true),
        ("\\text{(C)}", "\\boxed{(C)}", true),
        ("\\text{(C)}", "\\boxed{(D)}", false),
        ("x", "\\boxed{X}", false),
        ("\\text{even}", "\\boxed{\\textbf{Even}}", true),
        // Roots, powers, letters.
        ("\\sqrt{2}", "\\boxed{\\sqrt2}", true),
        ("3\\sqrt{13}", "\\boxed{3 \\sqrt{13}}", true),
        ("\\frac{\\sqrt{3}}{2}", "\\boxed{\\sqrt{3}/2}", true),
        ("-\\frac{\\sqrt{3}}{2}", "\\boxed{\\frac{-\\sqrt{3}}{2}}", true),
        ("\\frac{-1+\\sqrt5}{2}", "\\boxed{-\\frac{1+\\sqrt5}{2}}", false),
        ("\\frac{-1+\\sqrt5}{2}", "\\boxed{(-1+\\sqrt{5})/2}", true),
        ("\\frac{x+1}{2}", "\\boxed{x+1/2}", false),
        ("\\frac{x+1}{2}", "\\boxed{(x+1)/2}", true),
        ("\\frac{x \\pm 1}{2}", "\\boxed{x \\pm 1/2}", false),
        ("\\frac1{x+1}", "\\boxed{1/x+1}", false),
        ("\\frac1{x+1}", "\\boxed{1/(x+1)}", true),
        ("\\frac{1}{2x}", "\\boxed{1/2x}", false),
        ("\\frac{2x}{3}", "\\boxed{2x/3}", true),
        ("\\frac{2}{\\sqrt{x^2+1}}", "\\boxed{2/\\sqrt{x^2+1}}", true),
        ("\\frac{2}{x^{10}}", "\\boxed{2/x^{10}}", true),
        ("2^{10}", "\\boxed{2^10}", true),
        ("2^{10}", "\\boxed{2^{1}}", false),
        ("3+4i", "\\boxed{3+4\\mathrm{i}}", true),
        ("3+4i", "\\boxed{3+4}", false),
        ("x^2 + 1", "\\boxed{x^{2}+1}", true),
        ("\\pi", "\\boxed{\\pi}", true),
        ("\\frac{\\pi}{2}", "\\boxed{\\dfrac{\\pi}{2}}", true),
        ("2516_8", "\\boxed{2516_{8}}", true),
        ("3.5 * 10^5", "\\boxed{3.5 \\times 10^{5}}", true),
    ];
    check(&rows);
}

#[test]
fn answers_of_several_parts_are_compared_part_by_part() {
    let rows = [
        // Left sides.
        ("5", "\\boxed{x = 5}", true),
        ("6r^2-4r-24", "\\boxed{f(r) = 6r^2 - 4r - 24}", true),
        ("y = 2x + 3", "\\boxed{2x+3}", true),
        ("1,-2", "\\boxed{x=1, x=-2}", true),
        ("1,-2", "\\boxed{x=1 \\text{ or } x=-2}", true),
        ("x=1, y=2", "\\boxed{y=1, x=2}", false),
        ("(1,2)", "\\boxed{(x, y) = (1,2)}", true),
        ("(1,2)", "\\boxed{(x, y) = (2,1)}", false),
        ("x \\in (-\\infty,5]", "\\boxed{(-\\infty, 5]}", true),
        ("\\infty", "\\boxed{x = \\infty}", true),
        ("x \\in R", "\\boxed{R}", true),
        // Tuples, intervals, lists.
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "\\boxed{(3, \\frac{\\pi}{2})}", true),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "\\boxed{(\\frac{\\pi}{2}, 3)}", false),
        ("(-\\infty, 5]", "\\boxed{\\left(-\\infty,5\\right]}", true),
        ("(-\\infty, 5]", "\\boxed{(-\\infty,5)}", false),
        ("[0.5, 2)", "\\boxed{x \\in [\\frac12, 2)}", true),
        ("1,-2", "\\boxed{-2, 1}", true),
        ("1,-2", "\\boxed{-2 \\text{ or } 1}", true),
        ("\\{1, 2\\}", "\\boxed{\\{2,1\\}}", true),
        ("1,2", "\\boxed{1}", false),
        // Thousands, or a list.
        ("100,200", "\\boxed{100,200}", true),
        ("100,200", "\\boxed{100200}", true),
        ("100, 200", "\\boxed{100200}", false),
        ("100, 200", "\\boxed{200,\\ 100}", true),
        ("\\{100,200\\}", "\\boxed{100 \\text{ and } 200}", true),
        ("1,000, 2,000", "\\boxed{2000, 1000}", true),
        ("(0,1),(2,3)", "\\boxed{(2,3), (0,1)}", true),
        ("\\begin{pmatrix} -1 \\\\ 2 \\end{pmatrix}", "\\boxed{\\begin{pmatrix}-1\\\\2\\end{pmatrix}}", true),
        // Where the answer stands.
        ("4", "First \\boxed{3}, no: \\boxed{4}. Done.", true),
        ("4", "The answer is $4$.", true),
        ("4", "The final answer is: **4**\nBye, 5.", true),
        ("4", "so we get 4", false),
        ("4", "\\boxed{4", false),
        ("4", "", false),
        ("4", "\\boxed{}", false),
        ("4", "So \\boxed{4}. I put it into \\boxed{}, as \\boxed.", true),
        ("4", "\\fbox{4}", true),
        ("4", "\\boxed 4", true),
    ];
    check(&rows);
}

fn check(rows: &[(&str, &str, bool)]) {
    let task = crate::tasks::find("math500").unwrap();
    for &(gold, response, right) in rows {
        let (expected, found) = (task.expected(gold), task.extract(response));
        assert!(expected.is_some(), "{gold:?}");
        assert_eq!(expected == found, right, "{gold:?} {response:?}: {expected:?} {found:?}");
    }
}

#[test]
fn nothing_breaks_the_grader() {
    let task = crate::tasks::find("math500").unwrap();
    for text in [
        "\\boxed{\\frac}",
        "\\boxed{\\text}",
        "\\boxed{{{}",
        "\\boxed{}}}",
        "\\boxed{((,)}",
        "\\boxed{é\\}",
        "\\boxed{-}",
        "\\boxed{/}",
        "\\boxed{1/0}",
        "\\boxed{⟨}",
        "\\boxed{,,}",
        "\\boxed{^}",
        "answer is",
        "\\boxed{\\text{a}^é}",
        "\\boxed{,;}",
        "\\boxed{²}",
        "\\boxed{^2}",
        "\\boxed{é=é}",
        "\\boxed{√}",
    ] {
        let _ = task.extract(text);
        let _ = task.expected(text);
    }
    // What a model writes when it does not stop.
    for often in [150, 500, 100_000] {
        for (open, close) in
            [("-", ""), ("(", ")"), ("\\frac{", "}{2}"), ("{", "}"), ("\\sqrt", ""), ("(1,", ")")]
        {
            let text = format!("{}1{}", open.repeat(often), close.repeat(often));
            let _ = task.extract(&format!("\\boxed{{{text}}}"));
            let _ = task.expected(&text);
        }
    }
}
