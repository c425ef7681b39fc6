//! How to mend a finding, with the resource's own names in the commands.
//!
//! A name from the cloud is a stranger's text that an operator will paste into a shell. It is put
//! in so that the shell takes it for one word and nothing else, wherever the placeholder stands.

use protocol::api::{Fix, ResourceRef};
use protocol::urn::Urn;

/// Where in a command a character stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quotes {
    None,
    Single,
    Double,
}

/// Puts a resource's id, region and account for `<id>`, `<region>` and `<account>` in the
/// commands of a fix. `<name>` stays: some commands ask for another name than the resource's.
pub(super) fn for_resource(fix: Fix, resource: &ResourceRef) -> Fix {
    let id = resource.urn.parse::<Urn>().map(|urn| urn.id).ok();
    let region = Some(resource.region.clone()).filter(|region| region != "global");
    let values = [
        ("<id>", id),
        ("<region>", region),
        ("<account>", Some(resource.account.clone())),
    ];
    let known: Vec<(&str, String)> = values
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .filter(|(_, value)| is_printed(value))
        .collect();
    Fix {
        cli: filled(&fix.cli, &known),
        ..fix
    }
}

/// Whether a text is shown as what it is, and is no option: no control character ends a line or
/// moves a cursor.
fn is_printed(value: &str) -> bool {
    let is_option = value.is_empty() || value.starts_with('-');
    !is_option
        && value
            .chars()
            .all(|c| !c.is_control() && !super::orgs::is_bidi(c))
}

fn filled(command: &str, known: &[(&str, String)]) -> String {
    let mut text = String::with_capacity(command.len());
    let mut quotes = Quotes::None;
    let mut rest = command;
    while let Some(letter) = rest.chars().next() {
        if let Some((name, value)) = known.iter().find(|(name, _)| rest.starts_with(name)) {
            text.push_str(&quoted(value, quotes));
            rest = rest.get(name.len()..).unwrap_or_default();
            continue;
        }
        quotes = match (quotes, letter) {
            (Quotes::None, '\'') => Quotes::Single,
            (Quotes::None, '"') => Quotes::Double,
            (Quotes::Single, '\'') | (Quotes::Double, '"') => Quotes::None,
            (quotes, _) => quotes,
        };
        text.push(letter);
        rest = rest.get(letter.len_utf8()..).unwrap_or_default();
    }
    text
}

/// Source: POSIX.1-2024, Shell Command Language, 2.2 "Quoting".
fn quoted(value: &str, quotes: Quotes) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "-_./:@=+,%".contains(c);
    if value.chars().all(is_safe) {
        return value.to_owned();
    }
    let single = value.replace('\'', r"'\''");
    match quotes {
        Quotes::None => format!("'{single}'"),
        Quotes::Single => single,
        // Left, quoted on its own, and entered again: no character is special within single ones.
        Quotes::Double => format!("\"'{single}'\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(cli: &str, id: &str) -> String {
        let scope = protocol::urn::Scope::of_type("aws.s3.bucket", "123456789012", "eu-west-1");
        let resource = ResourceRef {
            urn: scope.urn(id).to_string(),
            type_name: "aws.s3.bucket".into(),
            name: id.into(),
            account: "123456789012".into(),
            region: "eu-west-1".into(),
            provider: "aws".into(),
        };
        let fix = Fix {
            cli: cli.into(),
            ..Fix::default()
        };
        for_resource(fix, &resource).cli
    }

    #[test]
    fn a_command_names_the_resource_and_leaves_what_only_the_operator_knows() {
        assert_eq!(
            told(
                "aws s3api x --bucket <id> --region <region> --key <key>",
                "logs"
            ),
            "aws s3api x --bucket logs --region eu-west-1 --key <key>"
        );
        assert_eq!(told("gs://<id>/*", "logs"), "gs://logs/*");
    }

    #[test]
    fn a_hostile_name_is_one_word_to_a_shell_wherever_it_stands() {
        let hostile = r#"a'; touch /tmp/pwned; echo "$(id)`id`"#;
        for template in [
            "printf %s <id>",
            "printf %s 'x=<id>'",
            "printf %s \"x=<id>\"",
        ] {
            let command = told(template, hostile);
            // The words that a shell would see, by a reader of our own.
            let words = words(&command);
            let last = words.last().unwrap().trim_start_matches("x=").to_owned();
            assert_eq!(words.len(), 3, "{command}");
            assert_eq!(last, hostile, "{command}");
        }
    }

    #[test]
    fn a_name_that_would_not_be_seen_as_it_is_is_not_put_in() {
        assert_eq!(told("x <id>", "a\nrm -rf"), "x <id>");
        assert_eq!(told("x <id>", "a\u{202e}b"), "x <id>");
        assert_eq!(told("x <id>", "--force"), "x <id>");
    }

    /// Splits a command as POSIX says, without expansion; panics on what would be expanded.
    fn words(command: &str) -> Vec<String> {
        let (mut words, mut word, mut open) = (Vec::new(), None::<String>, None);
        let mut letters = command.chars();
        while let Some(letter) = letters.next() {
            match (open, letter) {
                (None, ' ') => words.extend(word.take()),
                (None, '\'' | '"') => {
                    open = Some(letter);
                    word.get_or_insert_default();
                }
                (None, '\\') => word.get_or_insert_default().extend(letters.next()),
                (Some(quote), letter) if quote == letter => open = None,
                (None | Some('"'), '$' | '`') => panic!("{command} would be expanded"),
                (None, ';' | '&' | '|') => panic!("{command} is two commands"),
                (_, letter) => word.get_or_insert_default().push(letter),
            }
        }
        assert_eq!(open, None, "{command} has an open quote");
        words.extend(word);
        words
    }
}
