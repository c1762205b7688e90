//! A block on the terminal and as a page.

use super::*;
use jacobi_datasets::schema::trajectory::{FinishReason, State};

fn decode(ids: &[u32]) -> String {
    ids.iter().map(|&id| char::from_u32(id).unwrap()).collect()
}

fn ids(text: &str) -> Vec<u32> {
    text.chars().map(u32::from).collect()
}

fn trajectory() -> Trajectory {
    let state = |block, iteration, converged, tail| State { block, iteration, converged, tail: ids(tail) };
    Trajectory {
        sample_id: "s".to_owned(),
        prompt_tokens: ids("p"),
        response_tokens: ids("abcdef\n"),
        finish_reason: FinishReason::Eos,
        states: vec![state(0, 0, 1, "xcy"), state(0, 1, 3, "\x1b"), state(1, 0, 0, "ef!")],
    }
}

#[test]
fn states_of_a_block() {
    assert_eq!(
        trajectory_view(&trajectory(), 0, 4, Marks::Colors, &decode),
        [
            "    0   1/4   \x1b[32ma\x1b[0m\x1b[2mx\x1b[0m\x1b[33mc\x1b[0m\x1b[2my\x1b[0m",
            "    1   3/4   \x1b[32mabc\x1b[0m\x1b[2m·\x1b[0m",
            "clean   4/4   \x1b[32mabcd\x1b[0m",
        ]
    );
    assert_eq!(
        trajectory_view(&trajectory(), 1, 4, Marks::Colors, &decode),
        ["    0   0/3   \x1b[33mef\x1b[0m\x1b[2m!\x1b[0m", "clean   3/3   \x1b[32mef⏎\x1b[0m"]
    );
    assert_eq!(
        trajectory_view(&trajectory(), 0, 4, Marks::Signs, &decode),
        ["    0   1/4   a│x⟨c⟩y", "    1   3/4   abc│·", "clean   4/4   abcd│"]
    );
    assert!(Marks::Colors.legend().contains("\x1b[33mright, but after"));
    assert!(Marks::Signs.legend().contains("⟨right, but after"));
}

#[test]
fn a_block_outside_has_no_lines() {
    assert!(trajectory_view(&trajectory(), 2, 4, Marks::Signs, &decode).is_empty());
    assert!(!trajectory_page(&trajectory(), 2, 4, "t", &decode).contains("class=\"figure\""));
}

#[test]
fn the_page_shows_every_state_escaped() {
    let mut shown = trajectory();
    shown.prompt_tokens = ids("<script>");
    let page = trajectory_page(&shown, 0, 4, "a <b>", &decode);
    for part in [
        "<title>a &lt;b&gt;</title>",
        "&lt;script&gt;",
        "<td class=\"figure\">0</td><td class=\"figure\">1/4</td><td><span class=\"own\">a</span>\
         <span class=\"refined\">x</span><span class=\"kept\">c</span><span class=\"refined\">y</span></td>",
        "<td class=\"figure\">clean</td><td class=\"figure\">4/4</td><td><span class=\"own\">abcd</span></td>",
    ] {
        assert!(page.contains(part), "missing {part:?}: {page}");
    }
    assert!(!page.contains("<script"));
}
