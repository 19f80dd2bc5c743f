//! Words, quotes and variables, as in the Dockerfile reference, "Environment replacement".
//!
//! | written | means |
//! | --- | --- |
//! | `$NAME`, `${NAME}` | the value, or nothing |
//! | `${NAME:-word}`, `${NAME-word}` | the word, if there is no value; with the colon, also if it is empty |
//! | `${NAME:+word}`, `${NAME+word}` | the word, if there is a value; with the colon, one that is not empty |
//! | `${NAME:?word}`, `${NAME?word}` | an error of these words, if there is no value |
//! | `'...'` | as it is |
//! | `"..."` | with variables, and an escape before `"`, `$` and itself |
//! | an escape, and a character | the character |
//!
//! What is refused: quotes and braces that do not end, and the replacements by pattern (`#`, `%`,
//! `/`) of newer builders.

use super::{EXPANDED_MAX, Problem};

/// Most variables in each other.
const DEPTH_MAX: usize = 32;

/// The character that escapes: a backslash, or a backquote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Escape {
    /// `\`
    #[default]
    Backslash,
    /// A backquote, for those who write Windows paths.
    Backquote,
}

impl Escape {
    pub(super) fn of(text: &str, line: u32) -> Result<Self, Problem> {
        match text {
            "\\" => Ok(Escape::Backslash),
            "`" => Ok(Escape::Backquote),
            _ => Err(Problem::new(line, format!("`{text}` cannot escape: only \\ and ` can"))),
        }
    }

    pub(super) fn character(self) -> char {
        match self {
            Escape::Backslash => '\\',
            Escape::Backquote => '`',
        }
    }
}

/// Where the values of variables come from.
pub type Values<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The words of a line, split where there is space outside of quotes; quotes stay in them.
pub fn raw_words(text: &str, escape: Escape) -> Vec<&str> {
    let (mut words, mut start, mut quote, mut escaped) = (Vec::new(), None, None, false);
    for (at, c) in text.char_indices() {
        if quote.is_none() && !escaped && c.is_whitespace() {
            words.extend(start.take().map(|start| &text[start..at]));
            continue;
        }
        start.get_or_insert(at);
        if std::mem::take(&mut escaped) {
            continue;
        }
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (Some('\''), _) => {}
            (_, c) => escaped = c == escape.character(),
        }
    }
    words.extend(start.map(|start| &text[start..]));
    words
}

/// Expands variables, and takes quotes and escapes away.
pub fn expand(text: &str, escape: Escape, values: Values<'_>) -> Result<String, String> {
    let mut expander = Expander::new(text, escape, values, 0);
    expander.words(None)?;
    Ok(expander.out)
}

/// Expands variables only: quotes in a here-document are its own.
pub fn expand_document(text: &str, escape: Escape, values: Values<'_>) -> Result<String, String> {
    let mut expander = Expander::new(text, escape, values, 0);
    while let Some(c) = expander.take() {
        match c {
            '$' => expander.variable()?,
            c if c == escape.character() => match expander.peek() {
                Some(next) if next == '$' || next == c => expander.put_next(),
                Some(_) | None => expander.out.push(c),
            },
            c => expander.out.push(c),
        }
    }
    expander.check()?;
    Ok(expander.out)
}

struct Expander<'a> {
    left: std::str::Chars<'a>,
    escape: Escape,
    values: Values<'a>,
    depth: usize,
    out: String,
}

impl<'a> Expander<'a> {
    fn new(text: &'a str, escape: Escape, values: Values<'a>, depth: usize) -> Self {
        Expander { left: text.chars(), escape, values, depth, out: String::new() }
    }

    fn take(&mut self) -> Option<char> {
        self.left.next()
    }

    fn peek(&self) -> Option<char> {
        self.left.clone().next()
    }

    fn put_next(&mut self) {
        let next = self.left.next();
        self.out.extend(next);
    }

    fn check(&self) -> Result<(), String> {
        match self.out.len() > EXPANDED_MAX {
            true => Err(format!("it becomes longer than {EXPANDED_MAX} bytes")),
            false => Ok(()),
        }
    }

    /// Expands up to the character that ends it, or to the end of the text if there is none.
    fn words(&mut self, end: Option<char>) -> Result<(), String> {
        while let Some(c) = self.take() {
            match c {
                c if Some(c) == end => return Ok(()),
                '\'' => self.single_quotes()?,
                '"' => self.double_quotes()?,
                '$' => self.variable()?,
                c if c == self.escape.character() => match self.peek() {
                    Some(_) => self.put_next(),
                    None => self.out.push(c),
                },
                c => self.out.push(c),
            }
            self.check()?;
        }
        match end {
            None => Ok(()),
            Some(end) => Err(format!("a `{end}` is missing")),
        }
    }

    fn single_quotes(&mut self) -> Result<(), String> {
        loop {
            match self.take().ok_or("a quote ' is missing")? {
                '\'' => return Ok(()),
                c => self.out.push(c),
            }
        }
    }

    fn double_quotes(&mut self) -> Result<(), String> {
        loop {
            match self.take().ok_or("a quote \" is missing")? {
                '"' => return Ok(()),
                '$' => self.variable()?,
                c if c == self.escape.character() => match self.peek() {
                    Some(next) if next == '"' || next == '$' || next == c => self.put_next(),
                    Some(_) | None => self.out.push(c),
                },
                c => self.out.push(c),
            }
            self.check()?;
        }
    }

    /// Behind a `$`.
    fn variable(&mut self) -> Result<(), String> {
        let braces = self.peek() == Some('{');
        if braces {
            self.take();
        }
        let name = self.name();
        if !braces {
            match name.is_empty() {
                true => self.out.push('$'),
                false => self.out.extend((self.values)(&name)),
            }
            return Ok(());
        }
        if name.is_empty() {
            return Err("a name is missing in ${}".to_owned());
        }
        let value = (self.values)(&name);
        match self.take() {
            Some('}') => {
                self.out.extend(value);
                Ok(())
            }
            Some(':') => match self.take() {
                Some(kind @ ('-' | '+' | '?')) => {
                    self.choose(kind, &name, value.filter(|value| !value.is_empty()))
                }
                _ => Err(format!("${{{name}:...}} needs one of -, + and ? behind the colon")),
            },
            Some(kind @ ('-' | '+' | '?')) => self.choose(kind, &name, value),
            Some('#' | '%' | '/') => {
                Err(format!("replacing a pattern in the value of {name} is not supported"))
            }
            Some(_) | None => Err(format!("${{{name} has no closing brace")),
        }
    }

    /// What `-`, `+` and `?` do; the word behind them ends with the brace.
    fn choose(&mut self, kind: char, name: &str, value: Option<String>) -> Result<(), String> {
        if self.depth >= DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} variables are in each other"));
        }
        let mut inner = Expander::new(self.left.as_str(), self.escape, self.values, self.depth + 1);
        inner.words(Some('}')).map_err(|_| format!("${{{name} has no closing brace"))?;
        let word = inner.out;
        self.left = inner.left;
        match (kind, value) {
            ('-', Some(value)) => self.out.push_str(&value),
            ('-', None) | ('+', Some(_)) => self.out.push_str(&word),
            ('?', Some(value)) => self.out.push_str(&value),
            ('?', None) => {
                let why = if word.is_empty() { "it has no value" } else { &word };
                return Err(format!("{name}: {why}"));
            }
            (_, _) => {}
        }
        self.check()
    }

    /// Letters, digits and underscores; a digit alone if it begins with one.
    fn name(&mut self) -> String {
        let text = self.left.as_str();
        let usual = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let len = match text.starts_with(|c: char| c.is_ascii_digit()) {
            true => 1,
            false => text.find(|c| !usual(c)).unwrap_or(text.len()),
        };
        let (name, rest) = text.split_at(len);
        self.left = rest.chars();
        name.to_owned()
    }
}
