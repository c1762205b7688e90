//! Chat templates and content in parts: some templates read a list of text parts, others only text.

use minijinja::Error;

use super::Chat;
use crate::prompts::Message;

/// Renders a conversation by a template, with or without the prompt for the next answer.
type Render<'a> = dyn Fn(Chat, bool) -> Result<String, Error> + 'a;

/// The text of a conversation. A template that reads parts gets them, as from transformers; any other gets their
/// joined text, as from serving engines, because it would write the list itself, or nothing.
pub(super) fn render(render: &Render, chat: Chat, add_generation_prompt: bool) -> Result<String, Error> {
    if !chat.messages.iter().any(Message::has_parts) || reads_parts(render, chat) {
        return render(chat, add_generation_prompt);
    }
    let joined: Vec<Message> = chat.messages.iter().map(Message::joined).collect();
    render(Chat { messages: &joined, ..chat }, add_generation_prompt)
}

/// Whether the template shows each part that it shows as joined text. Tested with a mark in place of each part.
fn reads_parts(render: &Render, chat: Chat) -> bool {
    let mut marks = Vec::new();
    let mut mark = || {
        marks.push(format!("part{}end", marks.len()));
        marks[marks.len() - 1].clone()
    };
    let in_parts: Vec<Message> = chat.messages.iter().map(|message| message.map_parts(&mut mark)).collect();
    let joined: Vec<Message> = in_parts.iter().map(Message::joined).collect();
    let text = |messages: &[Message]| render(Chat { messages, ..chat }, false).unwrap_or_default();
    let (in_parts, joined) = (text(&in_parts), text(&joined));
    marks.iter().all(|mark| !shows(&joined, mark) || shows(&in_parts, mark))
}

/// Whether `text` has `mark`, not as the value of a key `text` of a written list.
fn shows(text: &str, mark: &str) -> bool {
    let is_free = |(place, _): (usize, &str)| {
        let before = text[..place].trim_end_matches(['\'', '"']).trim_end();
        !["'text':", "\"text\":"].iter().any(|key| before.ends_with(key))
    };
    text.match_indices(mark).any(is_free)
}

#[cfg(test)]
mod tests;
