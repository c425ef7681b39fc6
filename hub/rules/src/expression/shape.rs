//! Bounds on an expression's text, looked at before the parser.
//!
//! The parser and the compiler descend once for every bracket and for every operator that stands
//! upon another one. Bounding both here bounds the stack they need, whatever the text.

use super::refusal::Refusal;

/// Longest text, in bytes.
pub(crate) const TEXT_BYTES: usize = 8 * 1024;
/// Brackets within each other.
const BRACKETS: usize = 8;
/// Operators that may stand one upon the other, over all open brackets.
const LINKS: usize = 48;

/// Refuses a text that is too long or too deep.
pub(crate) fn check(text: &str) -> Result<(), Refusal> {
    if text.len() > TEXT_BYTES {
        let reason = format!("the expression is longer than {TEXT_BYTES} bytes");
        return Err(Refusal::new(0, reason));
    }
    let bytes = text.as_bytes();
    // Links of each open bracket, the outermost first: those that `,`, `&&` and `||` end, and
    // choices, which only the bracket ends.
    let mut open = vec![(0usize, 0usize)];
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let next = bytes.get(at + 1).copied().unwrap_or_default();
        if starts_string(byte) {
            at = after_string(bytes, at);
            continue;
        }
        match byte {
            b'/' if next == b'/' => {
                let rest = bytes.get(at..).unwrap_or_default();
                at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                continue;
            }
            b'(' | b'[' | b'{' => {
                link(&mut open, byte == b'[', at)?;
                open.push((0, 0));
                if open.len() > BRACKETS + 1 {
                    let reason =
                        format!("more than {BRACKETS} brackets within each other (nested deeper)");
                    return Err(Refusal::new(at, reason));
                }
            }
            b')' | b']' | b'}' if open.len() > 1 => {
                open.pop();
            }
            b'?' => {
                if let Some(last) = open.last_mut() {
                    *last = (0, last.1 + 1);
                }
                link(&mut open, false, at)?;
            }
            b',' => {
                if let Some(last) = open.last_mut() {
                    *last = (0, 0);
                }
            }
            b'&' | b'|' | b':' => {
                if let Some(last) = open.last_mut() {
                    last.0 = 0;
                }
            }
            b'.' | b'!' | b'-' | b'+' | b'*' | b'/' | b'%' | b'<' | b'>' | b'=' => {
                link(&mut open, true, at)?;
                let is_pair = matches!(byte, b'!' | b'<' | b'>' | b'=') && next == b'=';
                at += usize::from(is_pair);
            }
            b'i' if next == b'n' && is_word(bytes, at) => link(&mut open, true, at)?,
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// Whether a two-letter word stands alone at `at`.
fn is_word(bytes: &[u8], at: usize) -> bool {
    let is_part = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    !is_part(at.checked_sub(1).and_then(|before| bytes.get(before))) && !is_part(bytes.get(at + 2))
}

fn link(open: &mut [(usize, usize)], counts: bool, at: usize) -> Result<(), Refusal> {
    if let Some(last) = open.last_mut() {
        last.0 += usize::from(counts);
    }
    if open
        .iter()
        .map(|(links, choices)| links + choices)
        .sum::<usize>()
        > LINKS
    {
        let reason =
            format!("more than {LINKS} selections, signs or comparisons stand one upon the other");
        return Err(Refusal::new(at, reason));
    }
    Ok(())
}

fn starts_string(byte: u8) -> bool {
    byte == b'\'' || byte == b'"'
}

/// Returns the offset after the string that begins at `at`, or the end of the text.
fn after_string(bytes: &[u8], at: usize) -> usize {
    let get = |at: usize| bytes.get(at).copied();
    let quote = get(at);
    let is_raw = at > 0 && matches!(get(at - 1), Some(b'r' | b'R'));
    let width = if get(at + 1) == quote && get(at + 2) == quote {
        3
    } else {
        1
    };
    let mut at = at + width;
    while let Some(byte) = get(at) {
        if byte == b'\\' && !is_raw {
            at += 2;
        } else if Some(byte) == quote && (1..width).all(|n| get(at + n) == quote) {
            return at + width;
        } else {
            at += 1;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_and_operators_in_strings_and_comments_do_not_count() {
        let text = format!(
            "r.Name == '{}' // {}\n && r.On",
            "((.".repeat(40),
            "[".repeat(40)
        );
        assert_eq!(check(&text), Ok(()));
        assert_eq!(check(r"r.Name == r'\' && ((((((((r.On))))))))"), Ok(()));
        assert!(check(r"r.Name == '\'' && (((((((((r.On)))))))))").is_err());
    }

    #[test]
    fn many_conditions_side_by_side_are_no_depth() {
        assert_eq!(check(&vec!["r.A.B == 1"; 200].join(" && ")), Ok(()));
        assert!(check(&vec!["1"; 100].join(" + ")).is_err());
        assert!(check(&"r.On ? r.On : ".repeat(100)).is_err());
        assert!(check(&format!("{}r.On", "!".repeat(100))).is_err());
        assert!(check(&vec!["1"; 100].join(" in ")).is_err());
    }
}
