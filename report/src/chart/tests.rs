//! Every chart of an evaluation: files, labels, colours, escapes.

use super::*;
use crate::fixtures::rows;

#[test]
fn every_chart_is_one_svg_with_its_labels() {
    let charts = charts(&rows()).unwrap();
    let files: Vec<&str> = charts.iter().map(|chart| chart.file.as_str()).collect();
    let expected = ["tpf", "iterations", "speed", "frontier", "acceptance", "positions", "widths", "ranks"];
    assert_eq!(files, expected.map(|name| format!("{name}.svg")));
    let svg = |file: &str| &charts.iter().find(|chart| chart.file == file).unwrap().svg;
    for chart in &charts {
        assert!(chart.svg.starts_with("<svg") && chart.svg.trim_end().ends_with("</svg>"), "{}", chart.file);
    }
    assert!(svg("tpf.svg").contains("trained  jacobi n=16") && svg("tpf.svg").contains("2.71"));
    assert!(svg("iterations.svg").contains("0.37"));
    // A line and two ends over each bar, of those that have an interval.
    let mut bare = rows();
    bare.iter_mut().for_each(|row| row.tpf_interval = None);
    let lines = |svg: &str| svg.matches("<polyline").count();
    let bare = super::charts(&bare).unwrap();
    for (with, without) in charts[..2].iter().zip(&bare) {
        assert_eq!((lines(&with.svg), lines(&without.svg)), (12, 0), "{}", with.file);
    }
    assert!(svg("frontier.svg").contains("trained  jacobi n=16"));
    assert!(svg("acceptance.svg").contains("tokens accepted"));
    assert!(svg("positions.svg").contains("position in the draft"));
    assert!(svg("widths.svg").contains("rows") && svg("ranks.svg").contains("80 %"));
    // The base model's ranks were not asked for.
    assert!(!svg("ranks.svg").contains("base jacobi"));
}

#[test]
fn charts_are_drawn_without_measurements() {
    let mut rows = rows();
    for row in &mut rows {
        (row.tpf, row.tps, row.acceptance) = (None, None, Vec::new());
        (row.widths, row.rejection_ranks) = (Vec::new(), Vec::new());
    }
    let left = charts(&rows).unwrap();
    let files: Vec<&str> = left.iter().map(|chart| chart.file.as_str()).collect();
    assert_eq!(files, ["tpf.svg", "iterations.svg", "speed.svg"]);
    assert!(charts(&[]).unwrap().is_empty());
}

#[test]
fn each_of_several_tasks_has_every_chart_of_its_own() {
    let mut rows = rows();
    assert!(!charts(&rows).unwrap()[0].svg.contains("gsm8k"));
    let second = rows.clone().into_iter().map(|row| EvalRow { task: "Math 500".to_owned(), ..row });
    rows.extend(second);
    let charts = charts(&rows).unwrap();
    assert!(charts[0].svg.contains("gsm8k") && charts[0].svg.contains("Math 500"));
    let of = |task: Option<&str>| -> Vec<&str> {
        charts.iter().filter(|c| c.task.as_deref() == task).map(|c| c.file.as_str()).collect()
    };
    assert_eq!(of(None), ["tpf.svg", "iterations.svg"]);
    let names = ["speed", "frontier", "acceptance", "positions", "widths", "ranks"];
    assert_eq!(of(Some("gsm8k")), names.map(|name| format!("{name}-gsm8k.svg")));
    assert_eq!(of(Some("Math 500")), names.map(|name| format!("{name}-math-500.svg")));
}

#[test]
fn every_colour_has_another_in_the_dark() {
    let style = include_str!("../style.css");
    for chart in charts(&rows()).unwrap() {
        for attribute in ["fill=\"#", "stroke=\"#"] {
            for rest in chart.svg.split(attribute).skip(1) {
                let rule = format!("svg [{attribute}{}\"]", &rest[..6]);
                assert!(style.contains(&rule), "{rule} of {} is missing", chart.file);
            }
        }
    }
}

#[test]
fn hostile_names_are_escaped_in_svg() {
    let mut rows = rows();
    rows[0].decoder = "<script>".to_owned();
    assert!(!charts(&rows).unwrap()[0].svg.contains("<script>"));
}

#[test]
fn a_legend_takes_the_lines_it_needs_and_stays_within_the_chart() {
    let long = "trained multi_block n=16 K=2 pool=4 tree=64";
    let lines = |names: &[&'static str]| {
        let legend = Legend::of(names.iter().map(|name| (*name, TEXT)));
        let end = |&(x, _, name, _): &(i32, i32, &str, RGBColor)| x + 18 + name.len() as i32 * 8;
        assert!(legend.places.iter().all(|place| end(place) <= WIDTH as i32));
        let mut lines: Vec<i32> = legend.places.iter().map(|(_, y, ..)| *y).collect();
        lines.dedup();
        lines.len()
    };
    assert_eq!((lines(&["a", "b"]), lines(&[long, long]), lines(&["a", long, "b", "c"])), (1, 2, 2));
}
