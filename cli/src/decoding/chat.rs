//! A conversation: each line of standard input is answered, until the input ends.

use std::io::{self, BufRead, IsTerminal};

use anyhow::bail;
use jacobi_datasets::Message;
use jacobi_decoder::Settings;

use super::view::View;
use super::{Engine, respond};
use crate::exit::ResponseInterrupted;
use crate::output;
use crate::signals::Stop;

/// Answers the lines of standard input, each in the context of the conversation so far, with fresh `views` for
/// each answer. `/reset` starts a new conversation; `/quit` and the end of the input end it.
///
/// # Errors
/// A signal; input or output that fails; a conversation that the model's template refuses. A full context is an
/// error; on a terminal it is only a message, since the user can react to it.
pub fn chat(
    engine: &Engine,
    settings: &Settings,
    views: &dyn Fn(&Engine) -> Vec<Box<dyn View + '_>>,
    stop: &Stop,
) -> anyhow::Result<()> {
    let interactive = io::stdin().is_terminal();
    if interactive {
        output::status("/reset starts a new conversation, /quit or Ctrl-D ends");
    }
    let mut messages = Vec::new();
    while let Some(line) = stop.at_once(|| next_line(interactive)).map_err(ResponseInterrupted::from)?? {
        match line.trim() {
            "" => continue,
            "/quit" => return Ok(()),
            "/reset" => {
                messages.clear();
                output::status("a new conversation");
                continue;
            }
            text => messages.push(Message::new("user", text)),
        }
        let prompt = engine.encode_chat(&messages)?;
        if let Some(full) = engine.too_long(&prompt) {
            if !interactive {
                bail!("{full}: /reset starts a new conversation");
            }
            messages.pop();
            output::status(&format!("{full}: /reset starts a new conversation, or shorten the message"));
            continue;
        }
        let decoded = respond(engine, &prompt, settings, &mut views(engine), stop.flag())?;
        stop.check().map_err(ResponseInterrupted::from)?;
        if prompt.len() + decoded.response_tokens.len() == engine.context_length() {
            output::status(&format!(
                "the context of {} tokens is full: /reset starts a new conversation",
                engine.context_length()
            ));
        }
        messages.push(Message::new("assistant", decoded.text));
    }
    if interactive {
        output::status("");
    }
    Ok(())
}

/// The next line of standard input; `None` at its end. On a terminal, a line that is not UTF-8 is asked for again.
fn next_line(interactive: bool) -> io::Result<Option<String>> {
    loop {
        if interactive {
            output::ask("> ");
        }
        let mut line = Vec::new();
        if io::stdin().lock().read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        match String::from_utf8(line) {
            Ok(line) => return Ok(Some(line)),
            Err(_) if interactive => output::status("that line is not UTF-8 text and was ignored"),
            Err(error) => {
                let message = format!("an input line is not UTF-8 text: {}", error.utf8_error());
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        }
    }
}
