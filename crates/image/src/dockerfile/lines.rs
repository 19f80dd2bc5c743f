//! The lines of a Dockerfile: directives, comments, lines that go on in the next, and
//! here-documents.
//!
//! ```text
//! directives --first other line--> instruction --word `<<NAME`--> here-document --NAME--> instruction
//! ```

use super::words::{Escape, raw_words};
use super::{INSTRUCTIONS_MAX, Problem, TEXT_MAX};

/// Instructions that here-documents belong to.
const WITH_DOCUMENTS: [&str; 3] = ["RUN", "COPY", "ADD"];
/// Most here-documents of an instruction.
const DOCUMENTS_MAX: usize = 16;

/// An instruction with its arguments as they are written, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Where it begins, from 1 on.
    pub(super) number: u32,
    /// Its name, in capitals.
    pub(super) name: String,
    /// What follows the name.
    pub(super) rest: String,
    pub(super) documents: Vec<Document>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What ends it.
    pub name: String,
    /// Its lines, each with its end.
    pub text: String,
    /// Whether variables in it are expanded: its name has no quotes.
    pub expand: bool,
    /// Whether tabs at the beginnings of its lines do not count.
    pub tabs: bool,
}

/// Takes a Dockerfile apart; also tells which character escapes.
pub(super) fn split(text: &str) -> Result<(Vec<Line>, Escape), Problem> {
    if text.len() > TEXT_MAX {
        return Err(Problem::new(0, format!("it is longer than {TEXT_MAX} bytes")));
    }
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    let physical: Vec<&str> = text.lines().collect();
    let escape = escape_directive(&physical)?;
    let mut splitter = Splitter { physical, at: 0, escape };
    let mut lines = Vec::new();
    while let Some(line) = splitter.next()? {
        if lines.len() >= INSTRUCTIONS_MAX {
            let why = format!("there are more than {INSTRUCTIONS_MAX} instructions");
            return Err(Problem::new(line.number, why));
        }
        lines.push(line);
    }
    Ok((lines, escape))
}

/// Directives are comments of the form `# name=value` before everything else; `syntax` and `check`
/// are for other builders.
fn escape_directive(physical: &[&str]) -> Result<Escape, Problem> {
    let mut escape = None;
    for (line, number) in physical.iter().zip(1..) {
        let Some(comment) = line.trim_start().strip_prefix('#') else { break };
        let Some((name, value)) = comment.split_once('=') else { break };
        match name.trim().to_ascii_lowercase().as_str() {
            "escape" if escape.is_some() => {
                return Err(Problem::new(number, "the directive `escape` is there twice"));
            }
            "escape" => escape = Some(Escape::of(value.trim(), number)?),
            "syntax" | "check" => {}
            _ => break,
        }
    }
    Ok(escape.unwrap_or_default())
}

struct Splitter<'a> {
    physical: Vec<&'a str>,
    at: usize,
    escape: Escape,
}

impl Splitter<'_> {
    fn next(&mut self) -> Result<Option<Line>, Problem> {
        let Some((number, text)) = self.logical() else { return Ok(None) };
        let text = text.trim();
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let (name, rest) = (name.to_ascii_uppercase(), rest.trim().to_owned());
        let documents = match WITH_DOCUMENTS.contains(&name.as_str()) {
            true => self.documents(number, &rest)?,
            false => Vec::new(),
        };
        Ok(Some(Line { number, name, rest, documents }))
    }

    /// The next line that is no comment, with those that it goes on in.
    fn logical(&mut self) -> Option<(u32, String)> {
        let mut begun: Option<(u32, String)> = None;
        while let Some(line) = self.physical.get(self.at).copied() {
            self.at += 1;
            let content = line.trim_start();
            // Also between lines that belong together, comments and empty lines do not count.
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let line = if begun.is_none() { content } else { line };
            let (_, text) = begun.get_or_insert((number_of(self.at), String::new()));
            match line.trim_end().strip_suffix(self.escape.character()) {
                Some(part) => text.push_str(part),
                None => {
                    text.push_str(line);
                    return begun;
                }
            }
        }
        begun
    }

    fn documents(&mut self, number: u32, rest: &str) -> Result<Vec<Document>, Problem> {
        let words = raw_words(rest, self.escape);
        let mut documents = Vec::new();
        for mut document in words.into_iter().filter_map(heading) {
            if documents.len() >= DOCUMENTS_MAX {
                let why = format!("it has more than {DOCUMENTS_MAX} here-documents");
                return Err(Problem::new(number, why));
            }
            loop {
                let Some(line) = self.physical.get(self.at).copied() else {
                    let why = format!("the here-document `{0}` has no line `{0}`", document.name);
                    return Err(Problem::new(number, why));
                };
                self.at += 1;
                let line = if document.tabs { line.trim_start_matches('\t') } else { line };
                if line == document.name {
                    break;
                }
                document.text.push_str(line);
                document.text.push('\n');
            }
            documents.push(document);
        }
        Ok(documents)
    }
}

/// The here-document that a word announces: digits, `<<`, perhaps `-`, and a name that may have
/// quotes around it.
pub(super) fn heading(word: &str) -> Option<Document> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (tabs, name) = match rest.strip_prefix('-') {
        Some(name) => (true, name),
        None => (false, rest),
    };
    let quoted = |quote: char| name.strip_prefix(quote)?.strip_suffix(quote);
    let bare = quoted('"').or_else(|| quoted('\''));
    let (name, expand) = (bare.unwrap_or(name), bare.is_none());
    let usual = |c: char| c.is_alphanumeric() || "_-.".contains(c);
    let named = !name.is_empty() && name.chars().all(usual);
    named.then(|| Document { name: name.to_owned(), text: String::new(), expand, tabs })
}

/// The number of the line before this index.
fn number_of(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
