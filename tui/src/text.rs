//! Text from the cloud and from the hub, made harmless for terminals and spreadsheets.

/// Returns text without control and bidirectional characters, each replaced by `�`, on one line.
///
/// Bidirectional controls (Unicode 15, UAX #9) could make a name read as another; escape
/// sequences could drive the terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|letter| {
            if is_harmful(letter) {
                '\u{fffd}'
            } else {
                letter
            }
        })
        .collect()
}

/// As [`plain`], but line breaks and tabs stay.
pub(crate) fn plain_lines(text: &str) -> String {
    let keep = |letter: char| matches!(letter, '\n' | '\t') || !is_harmful(letter);
    text.chars()
        .map(|letter| if keep(letter) { letter } else { '\u{fffd}' })
        .collect()
}

fn is_harmful(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// Returns a CSV cell that no spreadsheet takes for a formula: a leading `=`, `+`, `-`, `@`, tab
/// or carriage return gets a quote in front. Source: OWASP, "CSV Injection". Control and
/// bidirectional characters are replaced as by [`plain_lines`]: CSV is printed on terminals too.
pub(crate) fn csv_cell(text: &str) -> String {
    let text = &plain_lines(text);
    let is_number = text.parse::<f64>().is_ok();
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) && !is_number {
        return format!("'{text}");
    }
    text.clone()
}

/// Cuts text to a width in terminal cells, with `…` where something was cut.
pub(crate) fn fit(text: &str, width: usize) -> String {
    use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};
    if text.width() <= width {
        return text.to_owned();
    }
    let mut fitted = String::new();
    let mut used = 0;
    for letter in text.chars() {
        let cells = letter.width().unwrap_or(0);
        if used + cells + 1 > width {
            break;
        }
        used += cells;
        fitted.push(letter);
    }
    if width > 0 {
        fitted.push('…');
    }
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_and_reversed_text_cannot_reach_the_terminal() {
        assert_eq!(plain("a\u{1b}[31mb\nc"), "a\u{fffd}[31mb\u{fffd}c");
        assert_eq!(plain("user\u{202e}gpj.exe"), "user\u{fffd}gpj.exe");
        assert_eq!(plain_lines("a\n\u{1b}]0;x\u{7}"), "a\n\u{fffd}]0;x\u{fffd}");
    }

    #[test]
    fn a_formula_is_disarmed_and_a_number_is_not() {
        assert_eq!(csv_cell("=HYPERLINK(\"x\")"), "'=HYPERLINK(\"x\")");
        assert_eq!(csv_cell("-12.5"), "-12.5");
        assert_eq!(
            csv_cell("\u{1b}[2Ja\u{202e}b\nc"),
            "\u{fffd}[2Ja\u{fffd}b\nc"
        );
        assert_eq!(csv_cell("web"), "web");
    }

    #[test]
    fn text_is_cut_by_cells_not_by_bytes() {
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("abc", 3), "abc");
        assert_eq!(fit("abcd", 3), "ab…");
        assert_eq!(fit("abcd", 0), "");
    }
}
