//! Templates: Jinja2 with Python's values, by minijinja. Chat templates are set up as transformers does it; templates over
//! the columns of a row are strict.
//!
//! minijinja reads the language, but its string literals, operators and printed values are not Python's. Therefore string
//! literals become variables whose values we read, and instructions for operators become calls of filters of ours. What
//! remains different is refused when the template is loaded, or listed in the tests beside this file.

mod filters;
mod functions;
mod json;
mod methods;
mod operators;
mod source;
mod values;

use std::collections::BTreeMap;

use minijinja::machinery::{CodeGenerator, Instruction, Instructions, eval, make_string_output, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};

pub(crate) use values::Unread;

/// Steps that a template may take: far more than any conversation needs, and an endless macro ends.
const FUEL: u64 = 50_000_000;
/// In an instruction that calls a filter: looked up by name each time.
const NO_CACHE: u8 = u8::MAX;

/// What a template renders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A conversation. Undefined values are empty, and blocks take their lines with them.
    Chat,
    /// The columns of a row. Undefined values are errors, and white space stays.
    Row,
}

impl Kind {
    /// Its name in messages.
    fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat template",
            Self::Row => "template",
        }
    }
}

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
    instructions: Instructions<'static>,
    /// The source as minijinja reads it.
    source: &'static str,
}

impl Template {
    /// # Errors
    /// If `source` is not Jinja2, or uses a feature that this does not support.
    pub(crate) fn parse(source: &str, kind: Kind) -> Result<Self, Error> {
        let is_chat = kind == Kind::Chat;
        let prepared = source::prepare(source, is_chat)?;
        let mut environment = Environment::new();
        if !is_chat {
            environment.set_undefined_behavior(UndefinedBehavior::Strict);
        }
        environment.set_fuel(Some(FUEL));
        environment.set_formatter(|out, _, value| Ok(out.write_str(&values::text(value)?)?));
        environment.set_unknown_method_callback(methods::call);
        operators::add(&mut environment);
        filters::add(&mut environment);
        functions::add(&mut environment);
        for (index, literal) in prepared.literals.into_iter().enumerate() {
            environment.add_global(source::literal_name(index), literal);
        }
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(is_chat).lstrip_blocks(is_chat).keep_trailing_newline(!is_chat);
        // The instructions borrow the source. A process reads few templates and keeps them to its end.
        let source: &'static str = Box::leak(prepared.text.into_boxed_str());
        let tree = parse(source, kind.name(), syntax.build()?)?;
        let mut generator = CodeGenerator::new(kind.name(), source);
        generator.compile_stmt(&tree);
        let instructions = with_our_operators(&generator.finish().0, source, kind)?;
        Ok(Self { environment, instructions, source })
    }

    /// The variables that it reads and does not set, sorted.
    ///
    /// # Errors
    /// None for a template that has been parsed.
    pub(crate) fn variables(&self) -> Result<Vec<String>, Error> {
        let template = self.environment.template_from_str(self.source)?;
        let globals: Vec<&str> = self.environment.globals().map(|(name, _)| name).collect();
        let mut names: Vec<String> = template.undeclared_variables(false).into_iter().collect();
        names.retain(|name| !globals.contains(&name.as_str()));
        names.sort_unstable();
        Ok(names)
    }

    /// The text for these variables.
    ///
    /// # Errors
    /// Where Jinja2 fails, and where its text is not known.
    pub(crate) fn render(&self, variables: BTreeMap<String, Value>) -> Result<String, Error> {
        let mut text = String::new();
        let output = &mut make_string_output(&mut text);
        let (variables, blocks) = (Value::from(variables), BTreeMap::new());
        eval(&self.environment, &self.instructions, variables, &blocks, output, AutoEscape::None)?;
        Ok(text)
    }
}

/// Replaces instructions by calls of filters, and moves the targets of jumps accordingly.
fn with_our_operators(
    theirs: &Instructions<'static>,
    source: &'static str,
    kind: Kind,
) -> Result<Instructions<'static>, Error> {
    let all = || (0..).map_while(|index| theirs.get(index));
    let mut places = Vec::new();
    let mut length = 0u32;
    for instruction in all() {
        places.push(length);
        length += u32::try_from(replacement(instruction).len()).unwrap_or(u32::MAX);
    }
    places.push(length);
    check_jumps(theirs)?;
    let moved = |target: u32| places[target as usize];
    let mut ours = Instructions::new(kind.name(), source);
    for (index, instruction) in (0..).zip(all()) {
        let line = theirs.get_line(index).unwrap_or(0);
        check(instruction)
            .map_err(|message| Error::new(ErrorKind::SyntaxError, format!("{message} (line {line})")))?;
        for mut instruction in replacement(instruction) {
            match &mut instruction {
                Instruction::Iterate(target)
                | Instruction::Jump(target)
                | Instruction::JumpIfFalse(target)
                | Instruction::JumpIfFalseOrPop(target)
                | Instruction::JumpIfTrueOrPop(target)
                | Instruction::BuildMacro(_, target, _) => *target = moved(*target),
                _ => {}
            }
            match theirs.get_span(index) {
                Some(span) => ours.add_with_span(instruction, span),
                None => ours.add_with_line(instruction, u16::try_from(line).unwrap_or(u16::MAX)),
            };
        }
    }
    Ok(ours)
}

/// Refuses `break` and `continue` out of `{% with %}`, `{% set %}` or `{% filter %}`: minijinja leaves those open.
fn check_jumps(instructions: &Instructions) -> Result<(), Error> {
    let all = || (0..).map_while(|index| instructions.get(index));
    let mut open = vec![0i32];
    for instruction in all() {
        let change = match instruction {
            Instruction::PushWith | Instruction::BeginCapture(_) => 1,
            Instruction::PopFrame | Instruction::EndCapture => -1,
            _ => 0,
        };
        open.push(open[open.len() - 1] + change);
    }
    for (index, instruction) in (0..).zip(all()) {
        if let Instruction::Jump(target) = instruction
            && open[index as usize] != open[*target as usize]
        {
            let line = instructions.get_line(index).unwrap_or(0);
            let message = "break and continue out of with, set and filter are not supported";
            return Err(Error::new(ErrorKind::SyntaxError, format!("{message} (line {line})")));
        }
    }
    Ok(())
}

/// An instruction, or those that do it as Python does.
fn replacement(instruction: &Instruction<'static>) -> Vec<Instruction<'static>> {
    let filter = |name, values| Instruction::ApplyFilter(name, Some(values), NO_CACHE);
    match instruction {
        Instruction::GetAttr(name) if methods::of_maps(name) => {
            vec![Instruction::LoadConst(Value::from(*name)), filter(operators::ATTRIBUTE, 2)]
        }
        Instruction::Slice => vec![filter(operators::SLICE, 4)],
        Instruction::PushLoop(_) => vec![filter(operators::ITERATE, 1), instruction.clone()],
        instruction => vec![match operators::binary(instruction) {
            Some(name) => filter(name, 2),
            None => instruction.clone(),
        }],
    }
}

/// Refuses names that would fail, or mean something else, when the text is made.
fn check(instruction: &Instruction) -> Result<(), String> {
    match instruction {
        Instruction::ApplyFilter(name, ..) if !filters::is_known(name) => {
            Err(format!("the filter `{name}` is not supported"))
        }
        Instruction::PerformTest(name, ..) if !filters::is_known_test(name) => {
            Err(format!("the test `{name}` is not supported"))
        }
        Instruction::CallBlock(_)
        | Instruction::Include(_)
        | Instruction::LoadBlocks
        | Instruction::ExportLocals => Err("blocks and other templates are not supported".to_owned()),
        Instruction::PushAutoEscape => Err("autoescape is not supported".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
