//! `jacobi decode`: one prompt, several decoders, a chat.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use super::{BINARY, root};

const QUESTION: &str = "Anna has 3 apples and buys 4. How many apples has she?";

/// The standard output of `jacobi decode` with the small model, given `input` on standard input.
fn decode(arguments: &[&str], input: &str) -> String {
    let output = decode_output(arguments, input);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn decode_output(arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
    let mut command = Command::new(BINARY);
    command.args(["decode", "--model"]).arg(root().join("datasets/default/model")).args(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_ref()).unwrap();
    child.wait_with_output().unwrap()
}

fn decode_json(arguments: &[&str]) -> Value {
    serde_json::from_str(&decode(&[&["--prompt", QUESTION, "--json"], arguments].concat(), "")).unwrap()
}

#[test]
fn a_prompt_is_decoded_to_text_json_trajectory_and_page() {
    let json = decode_json(&[]);
    let text = json["text"].as_str().unwrap();
    assert_eq!(decode(&["--prompt", "-"], QUESTION), format!("{text}\n"));
    let widths = json["stats"]["widths"].as_object().unwrap();
    let forwards: u64 = widths.values().map(|width| width["forwards"].as_u64().unwrap()).sum();
    assert_eq!(Some(forwards), json["stats"]["forwards"].as_u64());

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.html");
    let arguments = ["--prompt", QUESTION, "--show-trajectory", "--html", file.to_str().unwrap()];
    let shown = decode(&arguments, "");
    assert!(shown.ends_with(&format!("\n\n{text}\n")) && !shown.contains('\x1b'), "{shown}");
    // Two lines of legend, one per pass and prompt, the empty one, the text.
    assert_eq!(shown.lines().count() as u64, 2 + 1 + forwards + 1 + text.lines().count() as u64, "{shown}");
    let page = fs_err::read_to_string(file).unwrap();
    assert!(page.contains(&format!("<b>{forwards}</b>")) && page.contains("class=\"rejected\""));
    assert!(!page.contains("<script") && !page.contains("src="));
}

#[test]
fn sampling_is_the_same_under_every_decoder_and_greedy_at_temperature_0() {
    let tokens = |arguments: &[&str]| decode_json(arguments)["response_tokens"].clone();
    let sampled = |decoder, seed| {
        tokens(&[
            "--decoder",
            decoder,
            "--temperature",
            "2",
            "--top-k",
            "50",
            "--top-p",
            "0.95",
            "--seed",
            seed,
        ])
    };
    assert_eq!(sampled("ar", "1"), sampled("multi-block", "1"));
    assert_ne!(sampled("ar", "1"), sampled("ar", "2"));
    let greedy = tokens(&[]);
    assert_eq!(tokens(&["--temperature", "0", "--top-k", "3", "--strict", "--dtype", "float32"]), greedy);
    let penalised = ["--repetition-penalty", "100", "--top-k", "1", "--max-new-tokens", "30"];
    assert_ne!(tokens(&penalised), greedy);
}

#[test]
fn compared_decoders_agree_and_are_listed_in_order() {
    let json = decode_json(&["--compare", "jacobi,ar,multi_block", "--block-size", "8", "--pool-size", "2"]);
    let names: Vec<&str> =
        json.as_array().unwrap().iter().map(|row| row["decoder"].as_str().unwrap()).collect();
    assert_eq!(names, ["jacobi", "ar", "multi_block"]);
    assert!(json.as_array().unwrap().iter().all(|row| row["text"] == json[0]["text"]), "{json}");
    let table = decode(&["--prompt", QUESTION, "--compare", "ar,multi-block"], "");
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines.len() == 4 && lines[0].ends_with("over ar  same text") && lines[3].ends_with("yes"),
        "{table}"
    );
    assert!(lines[2].contains("1.00x") && lines[3].starts_with("multi_block n=16 K=2 pool=4"), "{table}");
}

#[test]
fn a_chat_keeps_the_conversation_until_reset() {
    let input = format!("{QUESTION}\n\nAnd now?\n/reset\n{QUESTION}\n/quit\n{QUESTION}\n");
    let answers = decode(&["--chat", "--json", "--max-new-tokens", "40"], &input);
    let turns: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(turns.len(), 3);
    let prompt = |turn: usize| turns[turn]["prompt_tokens"].as_array().unwrap();
    assert!(prompt(1).len() > prompt(0).len() + turns[0]["response_tokens"].as_array().unwrap().len());
    assert!(prompt(1).starts_with(prompt(0)));
    assert_eq!((prompt(2), &turns[2]["text"]), (prompt(0), &turns[0]["text"]));
    let texts: Vec<&str> = turns.iter().map(|turn| turn["text"].as_str().unwrap()).collect();
    assert_eq!(decode(&["--chat", "--max-new-tokens", "40"], &input), texts.join("\n") + "\n");

    let full = decode_output(&["--chat"], format!("{}\n", "many words ".repeat(300)));
    let message = String::from_utf8(full.stderr).unwrap();
    assert_eq!(full.status.code(), Some(1), "{message}");
    assert!(message.contains("context holds 512") && message.contains("/reset"), "{message}");
    let unreadable = decode_output(&["--chat"], b"caf\xe9\n");
    let message = String::from_utf8(unreadable.stderr).unwrap();
    assert!(unreadable.status.code() == Some(1) && message.contains("is not UTF-8 text"), "{message}");
}

#[test]
fn ctrl_c_ends_a_chat_with_130() {
    let mut command = Command::new(BINARY);
    command.args(["decode", "--chat", "--json", "--model"]).arg(root().join("datasets/default/model"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "{QUESTION}").unwrap();
    let mut answer = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut answer).unwrap();
    assert!(answer.contains("\"finish_reason\":\"eos\""), "{answer}");
    // It waits for the next line, or is about to.
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    // Not `wait`, which would end the input first.
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    };
    assert_eq!(status.code(), Some(130));
}
