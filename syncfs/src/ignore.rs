//! [`Ignore`]: which paths this replica leaves alone, in the syntax and with the meaning of `gitignore(5)`.
//!
//! The rules of a folder are the lines of the file [`IGNORE_FILE`] at its top, which is replicated like any other (as
//! git does: what is left out belongs to the folder, not to the machine), then the lines of this replica's own
//! configuration; the last rule that matches decides. [`is_foreign`] names are always ignored.
//!
//! A peer may write the file, so that everything here is bounded: matching takes a time of at most pattern times path, whatever
//! the pattern, and there is no limit that a rule exceeds silently.

use std::fmt;

use crate::path::RelPath;

/// The name of the file with the folder's rules, at its top.
pub const IGNORE_FILE: &str = ".syncignore";
/// Most bytes of that file that are read; a longer one is not taken up.
pub const IGNORE_BYTES_MAX: u64 = 256 << 10;
/// Most rules; further ones are said and left out.
pub const RULES_MAX: usize = 4096;
/// Longest pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 4096;

/// A line that is no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Its number, from 1, in the file or in the configured lines.
    pub line: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// The rules of one folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignore {
    rules: Vec<Rule>,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// It takes back what earlier rules ignored.
    negated: bool,
    /// It is about directories only.
    dir_only: bool,
    names: Vec<Names>,
}

/// A part of a pattern between two slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Names {
    /// `**`: any number of names.
    Any,
    /// One name.
    One(Vec<Token>),
}

/// A part of a pattern for one name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`
    Any,
    /// `*`
    Many,
    /// `[…]`
    Class {
        negated: bool,
        ranges: Vec<(u8, u8)>,
    },
}

impl Ignore {
    /// Reads rules, one a line. A line that is no rule is left out and said.
    #[must_use]
    pub fn parse(text: &[u8]) -> (Self, Vec<Misfit>) {
        let (mut rules, mut misfits) = (Vec::new(), Vec::new());
        for (number, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let mut misfit = |what| misfits.push(Misfit { line: number + 1, what });
            match rule(line) {
                Ok(Some(_)) if rules.len() == RULES_MAX => {
                    misfit("too many rules: this one and all after it are left out");
                    break;
                }
                Ok(parsed) => rules.extend(parsed),
                Err(what) => misfit(what),
            }
        }
        (Self { rules }, misfits)
    }

    /// The same with rules that come later, and so take precedence.
    #[must_use]
    pub fn then(mut self, later: &Self) -> Self {
        self.rules.extend(later.rules.iter().cloned());
        self
    }

    /// Whether an entry is ignored, itself or with a directory that it lies in: what is in an ignored directory cannot
    /// be taken back.
    #[must_use]
    pub fn covers(&self, path: &RelPath, is_dir: bool) -> bool {
        let names: Vec<_> = path.names().collect();
        (1..=names.len()).any(|depth| self.decides(&names[..depth], is_dir || depth < names.len()))
    }

    /// The same for an entry of a directory that is not ignored.
    #[must_use]
    pub fn covers_entry(&self, path: &RelPath, is_dir: bool) -> bool {
        if self.rules.is_empty() {
            return is_foreign(path.name());
        }
        self.decides(&path.names().collect::<Vec<_>>(), is_dir)
    }

    fn decides(&self, names: &[&[u8]], is_dir: bool) -> bool {
        let fits = |rule: &&Rule| (is_dir || !rule.dir_only) && matches_names(&rule.names, names);
        let foreign = names.last().is_some_and(|name| is_foreign(name));
        foreign || self.rules.iter().rev().find(fits).is_some_and(|rule| !rule.negated)
    }
}

/// Names that belong to another synchroniser (Syncthing's marker, versions, rules and temporary files): a folder that it
/// served may be taken over, and given back, in place.
#[must_use]
pub fn is_foreign(name: &[u8]) -> bool {
    let temporary =
        (name.starts_with(b".syncthing.") || name.starts_with(b"~syncthing~")) && name.ends_with(b".tmp");
    temporary || [&b".stfolder"[..], b".stversions", b".stignore"].contains(&name)
}

/// One line: a rule, nothing, or what is wrong with it.
fn rule(line: &[u8]) -> Result<Option<Rule>, &'static str> {
    let mut line = trimmed(line);
    if line.is_empty() || line[0] == b'#' {
        return Ok(None);
    }
    if line.len() > PATTERN_BYTES_MAX {
        return Err("the pattern is too long");
    }
    let negated = line[0] == b'!';
    line = &line[usize::from(negated)..];
    let dir_only = line.last() == Some(&b'/');
    line = &line[..line.len() - usize::from(dir_only)];
    let anchored = line.contains(&b'/');
    line = line.strip_prefix(b"/").unwrap_or(line);
    if line.is_empty() {
        return Err("the pattern has no name in it");
    }
    let mut names = Vec::new();
    if !anchored {
        names.push(Names::Any);
    }
    for name in line.split(|&byte| byte == b'/') {
        let any = name.len() > 1 && name.iter().all(|&byte| byte == b'*');
        names.push(if any { Names::Any } else { Names::One(tokens(name)?) });
    }
    // "everything inside": the directory itself is not.
    if names.last() == Some(&Names::Any) {
        names.push(Names::One(vec![Token::Many]));
    }
    Ok(Some(Rule { negated, dir_only, names }))
}

/// Without the end of the line, and spaces before it that are not quoted.
fn trimmed(line: &[u8]) -> &[u8] {
    let mut line = line.strip_suffix(b"\r").unwrap_or(line);
    while let Some(shorter) = line.strip_suffix(b" ") {
        let quotes = shorter.iter().rev().take_while(|&&byte| byte == b'\\').count();
        if quotes % 2 == 1 {
            break;
        }
        line = shorter;
    }
    line
}

fn tokens(name: &[u8]) -> Result<Vec<Token>, &'static str> {
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(&byte) = name.get(at) {
        at += 1;
        match byte {
            b'?' => tokens.push(Token::Any),
            b'*' => {
                if tokens.last() != Some(&Token::Many) {
                    tokens.push(Token::Many);
                }
            }
            b'\\' => {
                tokens.push(Token::Byte(*name.get(at).ok_or("a backslash at the end quotes nothing")?));
                at += 1;
            }
            b'[' => {
                let (class, length) = class(&name[at..])?;
                tokens.push(class);
                at += length;
            }
            byte => tokens.push(Token::Byte(byte)),
        }
    }
    Ok(tokens)
}

/// A class after its `[`, and how many bytes it takes.
fn class(text: &[u8]) -> Result<(Token, usize), &'static str> {
    const OPEN: &str = "a [ without its ]";
    let negated = matches!(text.first(), Some(b'!' | b'^'));
    let (mut at, mut ranges) = (usize::from(negated), Vec::new());
    let member = |at: &mut usize| {
        *at += usize::from(text.get(*at) == Some(&b'\\'));
        *at += 1;
        text.get(*at - 1).copied().ok_or(OPEN)
    };
    loop {
        match text.get(at) {
            None => return Err(OPEN),
            // The first one is a member.
            Some(b']') if !ranges.is_empty() => {
                return Ok((Token::Class { negated, ranges }, at + 1));
            }
            Some(b'[') if text.get(at + 1) == Some(&b':') => {
                let name = &text[at + 2..];
                let end = name.windows(2).position(|pair| pair == b":]").ok_or(OPEN)?;
                ranges.extend(posix(&name[..end]).ok_or("an unknown [:class:]")?);
                at += end + 4;
            }
            Some(_) => {
                let first = member(&mut at)?;
                let is_range = text.get(at) == Some(&b'-') && !matches!(text.get(at + 1), None | Some(b']'));
                at += usize::from(is_range);
                ranges.push((first, if is_range { member(&mut at)? } else { first }));
            }
        }
    }
}

fn posix(name: &[u8]) -> Option<&'static [(u8, u8)]> {
    Some(match name {
        b"alnum" => &[(b'0', b'9'), (b'A', b'Z'), (b'a', b'z')],
        b"alpha" => &[(b'A', b'Z'), (b'a', b'z')],
        b"blank" => &[(b' ', b' '), (b'\t', b'\t')],
        b"cntrl" => &[(0, 31), (127, 127)],
        b"digit" => &[(b'0', b'9')],
        b"graph" => &[(b'!', b'~')],
        b"lower" => &[(b'a', b'z')],
        b"print" => &[(b' ', b'~')],
        b"punct" => &[(b'!', b'/'), (b':', b'@'), (b'[', b'`'), (b'{', b'~')],
        b"space" => &[(b'\t', b'\r'), (b' ', b' ')],
        b"upper" => &[(b'A', b'Z')],
        b"xdigit" => &[(b'0', b'9'), (b'A', b'F'), (b'a', b'f')],
        _ => return None,
    })
}

/// The usual way with one star: on a mismatch, the last star takes one more. Earlier ones need not be tried again.
fn matches<P, T>(pattern: &[P], text: &[T], is_star: fn(&P) -> bool, fits: fn(&P, &T) -> bool) -> bool {
    let (mut p, mut t, mut retry) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(part) if is_star(part) => {
                p += 1;
                retry = Some((p, t));
            }
            Some(part) if fits(part, &text[t]) => (p, t) = (p + 1, t + 1),
            _ => match retry {
                Some((after, from)) => {
                    (p, t) = (after, from + 1);
                    retry = Some((after, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(is_star)
}

fn matches_names(pattern: &[Names], names: &[&[u8]]) -> bool {
    matches(
        pattern,
        names,
        |part| matches!(part, Names::Any),
        |part, name| match part {
            Names::Any => true,
            Names::One(tokens) => matches(
                tokens,
                name,
                |token| matches!(token, Token::Many),
                |token, byte| match token {
                    Token::Byte(wanted) => wanted == byte,
                    Token::Any | Token::Many => true,
                    Token::Class { negated, ranges } => {
                        *negated != ranges.iter().any(|(from, to)| (from..=to).contains(&byte))
                    }
                },
            ),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ignores(rules: &str, path: &str) -> bool {
        let (ignore, misfits) = Ignore::parse(rules.as_bytes());
        assert_eq!(misfits, [], "{rules}");
        let is_dir = path.ends_with('/');
        ignore.covers(&RelPath::new(path.trim_end_matches('/')).unwrap(), is_dir)
    }

    /// Each line was compared with what `git check-ignore` says.
    #[test]
    fn rules_mean_what_they_mean_to_git() {
        for (rules, ignored, kept) in [
            ("*.o", &["a.o", "d/a.o", "x.o/y"][..], &["a.oo", "ao"][..]),
            ("/a", &["a", "a/b"], &["d/a"]),
            ("d/a", &["d/a", "d/a/x"], &["e/d/a", "a"]),
            ("build/", &["build/", "build/x", "d/build/", "d/build/x"], &["build", "d/build"]),
            ("**/foo", &["foo", "a/foo", "a/b/foo"], &["foobar"]),
            ("**/foo/bar", &["foo/bar", "a/foo/bar"], &["foo/x/bar"]),
            ("abc/**", &["abc/x", "abc/x/y"], &["abc/", "x/abc/y"]),
            ("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["ab", "a/xb"]),
            ("a**b", &["ab", "axb", "d/axyb"], &["a/b"]),
            ("f[a-c]?", &["fa1", "d/fcx"], &["fd1", "fa", "fa/1"]),
            ("[!a]b", &["xb", "d/cb"], &["ab", "b"]),
            ("[]x]", &["]", "x"], &["y"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[[:digit:]]*", &["1", "9a"], &["a1"]),
            ("\\!x", &["!x"], &["x"]),
            ("\\#x", &["#x"], &["x"]),
            ("# x\n\n", &[], &["# x", "x"]),
            ("a\\ \nb ", &["a ", "b"], &["a", "b "]),
            ("\\*", &["*"], &["a"]),
            ("*.log\n!keep.log", &["a.log"], &["keep.log", "d/keep.log"]),
            ("d/\n!d/keep", &["d/keep"], &[]),
            ("d/*\n!d/keep", &["d/x"], &["d/keep", "d/"]),
            ("/*\n!/d/\n/d/*\n!/d/e", &["a", "d/x"], &["d/", "d/e", "d/e/x"]),
            ("*\n!*/\n!*.txt", &["a", "d/a"], &["a.txt", "d/a.txt", "d/"]),
            ("a\r\nb", &["a", "b"], &[]),
        ] {
            for path in ignored {
                assert!(ignores(rules, path), "{rules:?} ignores {path}");
            }
            for path in kept {
                assert!(!ignores(rules, path), "{rules:?} keeps {path}");
            }
        }
    }

    #[test]
    fn names_that_are_no_text_are_matched_by_their_bytes() {
        let (ignore, _) = Ignore::parse(b"\xff*");
        assert!(ignore.covers(&RelPath::new(b"\xff\xfe").unwrap(), false));
        assert!(!ignore.covers(&RelPath::new(b"\xfe").unwrap(), false));
    }

    #[test]
    fn what_another_synchroniser_left_is_always_ignored() {
        for name in [".stfolder/", ".stversions/a", ".syncthing.a.tmp", "d/~syncthing~a.tmp", ".stignore"] {
            assert!(ignores("!*", name), "{name}");
        }
        assert!(!ignores("", ".syncthing.tmp2") && !ignores("", "syncthing.tmp"));
    }

    #[test]
    fn a_line_that_is_no_rule_is_said_and_the_others_hold() {
        let (ignore, misfits) = Ignore::parse(b"a\n[b\nc\\\n/\n[[:foo:]]\nd");
        assert_eq!(misfits.iter().map(|misfit| misfit.line).collect::<Vec<_>>(), [2, 3, 4, 5]);
        assert!(ignore.covers(&RelPath::new("d").unwrap(), false));
        let long = [vec![b'x'; PATTERN_BYTES_MAX + 1], b"\ny".to_vec()].concat();
        assert_eq!(Ignore::parse(&long).1.len(), 1);
        assert_eq!(Ignore::parse(&long[1..]).1, []);
    }

    #[test]
    fn rules_beyond_the_limit_are_said() {
        assert_eq!(Ignore::parse("a\n".repeat(RULES_MAX).as_bytes()).1, []);
        let (ignore, misfits) = Ignore::parse("a\n".repeat(RULES_MAX + 2).as_bytes());
        assert_eq!(misfits.len(), 1);
        assert_eq!(ignore.rules.len(), RULES_MAX);
    }

    #[test]
    fn own_lines_have_the_last_word() {
        let (file, own) = (Ignore::parse(b"*.log").0, Ignore::parse(b"!a.log\nlocal").0);
        let both = file.then(&own);
        let covers = |path: &str| both.covers(&RelPath::new(path).unwrap(), false);
        assert!(covers("b.log") && covers("local") && !covers("a.log"));
    }

    proptest! {
        #[test]
        fn an_entry_is_ignored_with_its_directory(rules in "[ab*?/!\\[\\]\\\\\n-]{0,30}", path in "[ab]{1,3}(/[ab]{1,3}){0,3}") {
            let (ignore, _) = Ignore::parse(rules.as_bytes());
            let path = RelPath::new(&path).unwrap();
            let in_dir = path.parent().is_some_and(|dir| ignore.covers(&dir, true));
            for is_dir in [false, true] {
                prop_assert_eq!(ignore.covers(&path, is_dir), in_dir || ignore.covers_entry(&path, is_dir));
            }
        }
    }
}
