//! The page: self-contained, grouped by task, escaped.

use super::*;
use crate::fixtures::{results, samples};

#[test]
fn page_is_self_contained_and_shows_the_samples() {
    let (results, samples) = (results(), samples());
    let charts = crate::chart::charts(&results.rows).unwrap();
    let page = render(&Content::of(&results, &samples, &[], [&charts, &[]]));
    for part in [
        "<!doctype html>",
        "<title>tiny on gsm8k</title>",
        "<b>2.71</b><span>tokens per forward pass (jacobi n=16)</span>",
        "<td class=\"figure\">2.32x</td>",
        "<h2>Before and after training</h2>",
        "<td class=\"figure\">1.08 → 2.71</td>",
        "<h3>Milliseconds per pass</h3>",
        "<span class=\"even\">Two &amp; two</span><span class=\"odd\"> make 4.</span>",
        "What is &lt;b&gt;2&lt;/b&gt; + 2?",
        "<dt>device</dt><dd>cpu &lt;2 cores&gt;</dd>",
        "prefers-color-scheme: dark",
        "<svg",
    ] {
        assert!(page.contains(part), "missing {part:?}");
    }
    for fetched in ["<script", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(fetched), "{fetched:?} fetches something");
    }
}

#[test]
fn charts_of_several_tasks_stand_under_their_names() {
    let chart = |task: Option<&str>| Chart {
        file: String::new(),
        title: "t".to_owned(),
        task: task.map(str::to_owned),
        svg: String::new(),
    };
    let page = figures(&[chart(None), chart(Some("a & b")), chart(Some("a & b")), chart(Some("c"))]);
    assert_eq!((page.matches("<div class=\"charts\">").count(), page.matches("<figure>").count()), (3, 4));
    assert!(page.contains("<h3>a &amp; b</h3>") && page.contains("<h3>c</h3>"), "{page}");
    assert_eq!(figures(&[]), "");
}

#[test]
fn hostile_text_is_escaped() {
    let (mut results, mut samples) = (results(), samples());
    let hostile = "</style><script>alert(1)</script><img src=x>";
    results.command = hostile.to_owned();
    results.environment.insert(hostile.to_owned(), hostile.into());
    for row in &mut results.rows {
        (row.model, row.task) = (hostile.to_owned(), hostile.to_owned());
    }
    for sample in &mut samples {
        sample.model = hostile.to_owned();
        sample.prompt = hostile.to_owned();
        sample.text = hostile.to_owned();
        sample.pieces = vec![hostile.to_owned()];
    }
    let charts = crate::chart::charts(&results.rows).unwrap();
    let page = render(&Content::of(&results, &samples, &[], [&charts, &[]]));
    assert!(!page.contains("<script") && !page.contains("<img"));
    assert_eq!(page.matches("</style>").count(), 1);
}
