//! `$NAME` and `${NAME}` in values, with the
//! [defaults and demands](https://github.com/compose-spec/compose-spec/blob/main/12-interpolation.md) of the shell: `:-`, `-`, `:?`,
//! `?`, `:+`, `+`. `$$` is one `$`.

use super::section::Field;
use super::tree::{Node, Value};
use super::{Diagnostic, Reader};

/// The deepest nesting of defaults in defaults.
const NESTING_MAX: usize = 8;
/// The longest value that variables may make.
const VALUE_MAX_BYTES: usize = 1 << 20;

impl Reader<'_> {
    /// Puts values in place of variables, in everything but keys.
    pub(super) fn interpolate(&mut self, node: &mut Node, key: &str) {
        match &mut node.value {
            Value::Null => {}
            Value::Text(text) if !text.contains('$') => {}
            Value::Text(text) => match self.expand(text, 0) {
                Ok(expanded) => *text = expanded,
                Err(what) => {
                    let remedy = "write $$ for a dollar sign, and see that the variable is set";
                    self.say(Diagnostic::error(node.at, key, what).remedy(remedy));
                }
            },
            Value::List(items) => {
                for (number, item) in items.iter_mut().enumerate() {
                    self.interpolate(item, &format!("{key}[{number}]"));
                }
            }
            Value::Map(entries) => {
                for (name, value) in entries {
                    self.interpolate(value, &Field::join(key, &name.text));
                }
            }
        }
    }

    fn expand(&self, text: &str, nesting: usize) -> Result<String, String> {
        if nesting > NESTING_MAX {
            return Err(format!("defaults in defaults, more than {NESTING_MAX} deep"));
        }
        let (mut out, mut rest) = (String::new(), text);
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some(inside) = rest.strip_prefix('{') {
                let end = closing(inside).ok_or_else(|| format!("`${{` without its `}}` in {text:?}"))?;
                out.push_str(&self.braced(&inside[..end], nesting)?);
                rest = &inside[end + 1..];
            } else {
                let name = name_at(rest);
                if name.is_empty() {
                    return Err(format!("`$` without a variable's name in {text:?}"));
                }
                out.push_str(&self.surroundings.variable(name).unwrap_or_default());
                rest = &rest[name.len()..];
            }
            if out.len() > VALUE_MAX_BYTES {
                return Err(format!("variables make it longer than {VALUE_MAX_BYTES} bytes"));
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn braced(&self, inside: &str, nesting: usize) -> Result<String, String> {
        let name = name_at(inside);
        if name.is_empty() {
            return Err(format!("`${{{inside}}}` does not begin with a variable's name"));
        }
        let (operator, word) = match &inside[name.len()..] {
            "" => ("", ""),
            rest => {
                let length = if rest.starts_with(':') { 2 } else { 1 };
                if !rest.is_char_boundary(length) || length > rest.len() {
                    return Err(format!("`${{{inside}}}` is not understood"));
                }
                rest.split_at(length)
            }
        };
        let value = self.surroundings.variable(name);
        let filled = value.clone().filter(|value| !value.is_empty());
        let usable = if operator.starts_with(':') { filled } else { value.clone() };
        match (operator.trim_start_matches(':'), usable) {
            ("", _) if operator.is_empty() => Ok(value.unwrap_or_default()),
            ("-" | "?", Some(usable)) => Ok(usable),
            ("-", None) => self.expand(word, nesting + 1),
            ("?", None) if word.is_empty() => Err(format!("the variable {name} is required")),
            ("?", None) => {
                Err(format!("the variable {name} is required: {}", self.expand(word, nesting + 1)?))
            }
            ("+", Some(_)) => self.expand(word, nesting + 1),
            ("+", None) => Ok(String::new()),
            _ => Err(format!("`${{{inside}}}` is not understood")),
        }
    }
}

/// The name at the beginning of a text.
fn name_at(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    if text.starts_with(|c: char| c.is_ascii_digit()) { "" } else { &text[..end] }
}

/// Where the brace is closed that was opened just before.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' if at > 0 && text.as_bytes()[at - 1] == b'$' => depth += 1,
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}
