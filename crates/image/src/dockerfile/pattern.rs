//! Patterns for paths.
//!
//! | in | means |
//! | --- | --- |
//! | `*`, `?`, `[a-z]`, `[^a]`, `\x` | as in a shell, within a part of a path |
//! | `**` | any number of parts, in `.dockerignore` only |
//! | `!` at the beginning | not ignored after all, in `.dockerignore` only |
//!
//! A path is ignored if the last line that fits it, or one of the folders that it is in, says so.

/// Most lines of a `.dockerignore`.
const RULES_MAX: usize = 10_000;

/// The lines of a `.dockerignore`.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    parts: Vec<String>,
    ignored: bool,
}

impl Ignore {
    /// Reads a `.dockerignore`; the error is the number of a line, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, (u32, String)> {
        let mut rules = Vec::new();
        let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (pattern, ignored) = match line.strip_prefix('!') {
                Some(pattern) => (pattern.trim(), false),
                None => (line, true),
            };
            let parts = clean(pattern);
            if parts.is_empty() {
                // The whole context cannot be meant by it.
                continue;
            }
            if let Some(part) = parts.iter().find(|part| !is_pattern_sound(part)) {
                return Err((number, format!("the pattern `{part}` does not end")));
            }
            if rules.len() >= RULES_MAX {
                return Err((number, format!("there are more than {RULES_MAX} patterns")));
            }
            rules.push(Rule { parts, ignored });
        }
        Ok(Ignore { rules })
    }

    /// Whether the path, relative to the context, is ignored.
    pub fn matches(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let fits =
            |rule: &&Rule| (1..=parts.len()).any(|len| matches_parts(&rule.parts, &parts[..len]));
        self.rules.iter().rev().find(fits).is_some_and(|rule| rule.ignored)
    }

    /// Whether something in an ignored folder may not be ignored.
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| !rule.ignored)
    }
}

/// The parts of a path without `.` and empty ones; `..` goes back, but not beyond the beginning.
pub fn clean(path: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part.to_owned()),
        }
    }
    parts
}

/// Whether a text has characters in it that make it a pattern.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

/// Whether brackets are closed, and nothing is escaped that is not there.
pub fn is_pattern_sound(part: &str) -> bool {
    let mut chars = part.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.next().is_none() => return false,
            '[' => match class(chars.as_str(), 'x') {
                Some((_, rest)) => chars = rest.chars(),
                None => return false,
            },
            _ => {}
        }
    }
    true
}

/// Whether a name fits a pattern.
pub fn matches(pattern: &str, name: &str) -> bool {
    // Where to go on if what follows the last star does not fit: one character later.
    let mut retry: Option<(&str, &str)> = None;
    let (mut pattern, mut name) = (pattern, name);
    loop {
        if let Some(rest) = pattern.strip_prefix('*') {
            retry = Some((rest, name));
            pattern = rest;
            continue;
        }
        if pattern.is_empty() && name.is_empty() {
            return true;
        }
        if let Some((after_pattern, after_name)) = one(pattern, name) {
            (pattern, name) = (after_pattern, after_name);
            continue;
        }
        let Some((star, from)) = retry else { return false };
        let mut rest = from.chars();
        if rest.next().is_none() {
            return false;
        }
        retry = Some((star, rest.as_str()));
        (pattern, name) = (star, rest.as_str());
    }
}

/// Takes one character of the name, if the beginning of the pattern fits it.
fn one<'a>(pattern: &'a str, name: &'a str) -> Option<(&'a str, &'a str)> {
    let (mut left, mut chars) = (pattern.chars(), name.chars());
    let c = chars.next()?;
    let fits = match left.next()? {
        '?' => true,
        '[' => {
            let (fits, rest) = class(left.as_str(), c)?;
            left = rest.chars();
            fits
        }
        '\\' => left.next()? == c,
        literal => literal == c,
    };
    fits.then_some((left.as_str(), chars.as_str()))
}

/// Behind a `[`: whether the character is among those up to the `]`, and what follows it.
fn class(text: &str, c: char) -> Option<(bool, &str)> {
    let mut left = text.chars();
    let negated = text.starts_with(['^', '!']);
    if negated {
        left.next();
    }
    let (mut found, mut first) = (false, true);
    loop {
        let low = match left.next()? {
            ']' if !first => return Some((found != negated, left.as_str())),
            '\\' => left.next()?,
            low => low,
        };
        first = false;
        let high = match left.as_str().strip_prefix('-') {
            Some(rest) if !rest.starts_with(']') => {
                left = rest.chars();
                match left.next()? {
                    '\\' => left.next()?,
                    high => high,
                }
            }
            _ => low,
        };
        found |= (low..=high).contains(&c);
    }
}

/// As [`matches()`], a part at a time; `**` is for any number of parts.
fn matches_parts(pattern: &[String], parts: &[&str]) -> bool {
    let mut retry: Option<(usize, usize)> = None;
    let (mut p, mut at) = (0, 0);
    loop {
        match pattern.get(p) {
            Some(part) if part == "**" => {
                retry = Some((p + 1, at));
                p += 1;
                continue;
            }
            Some(part) if parts.get(at).is_some_and(|name| matches(part, name)) => {
                (p, at) = (p + 1, at + 1);
                continue;
            }
            None if at == parts.len() => return true,
            Some(_) | None => {}
        }
        let Some((star, from)) = retry else { return false };
        if from >= parts.len() {
            return false;
        }
        retry = Some((star, from + 1));
        (p, at) = (star, from + 1);
    }
}
