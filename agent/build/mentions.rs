//! What the text of an expression mentions: fields, tags and relations.
//!
//! It knows the words of the language (`hub/rules/src/check.rs` describes it) and not its grammar.
//! What it cannot place counts as read whole, so that it may name too much and never too little.

use std::collections::BTreeSet;

/// Stands for every field of a document.
pub(crate) const ALL: &str = "*";
/// Stands for a document's tags; no field has such a name.
pub(crate) const TAGS: &str = "#tags";

/// What one check's expressions mention. Fields are the outermost ones of a document.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Mentions {
    /// Of the resource that is judged.
    pub(crate) own: BTreeSet<String>,
    /// Of the account's document.
    pub(crate) account: BTreeSet<String>,
    /// Of documents at the other end of any relation.
    pub(crate) neighbours: BTreeSet<String>,
    /// Relations that lead to others.
    pub(crate) linked: BTreeSet<String>,
    /// Relations that lead here, with the type they come from where it is said, else nothing.
    pub(crate) linked_from: BTreeSet<(String, String)>,
}

impl Mentions {
    /// Adds what an expression mentions.
    ///
    /// # Errors
    ///
    /// A text that never ends, or a relation whose name is no text in quotes.
    pub(crate) fn add(&mut self, expression: &str) -> Result<(), String> {
        let tokens = tokens(expression)?;
        for (at, token) in tokens.iter().enumerate() {
            let Token::Word(word) = token else { continue };
            let selected = at
                .checked_sub(1)
                .and_then(|before| tokens.get(before))
                .is_some_and(|before| *before == Token::Sign('.'));
            let rest = tokens.get(at + 1..).unwrap_or_default();
            match (word.as_str(), selected) {
                ("r", false) => self.own.insert(field(rest)),
                ("r", true) => self.neighbours.insert(field(rest)),
                ("account", false) => self.account.insert(field(rest)),
                ("tags", false) => self.own.insert(TAGS.to_owned()),
                ("tags", true) => self.neighbours.insert(TAGS.to_owned()),
                ("linked", _) => match relation(rest)?.as_slice() {
                    [name] => self.linked.insert(name.clone()),
                    _ => return Err("linked takes the name of a relation".to_owned()),
                },
                ("linked_from", _) => match relation(rest)?.as_slice() {
                    [name] => self.linked_from.insert((name.clone(), String::new())),
                    [name, of] => self.linked_from.insert((name.clone(), of.clone())),
                    _ => return Err("linked_from takes a relation and a type".to_owned()),
                },
                _ => false,
            };
        }
        Ok(())
    }
}

/// Returns the field that follows a document, or all of them where none does.
fn field(rest: &[Token]) -> String {
    match rest {
        [Token::Sign('.'), Token::Word(name), ..] => name.clone(),
        _ => ALL.to_owned(),
    }
}

/// Returns the texts between the brackets that follow.
fn relation(rest: &[Token]) -> Result<Vec<String>, String> {
    let [Token::Sign('('), rest @ ..] = rest else {
        return Err("the name of a relation is missing".to_owned());
    };
    let mut names = Vec::new();
    for token in rest {
        match token {
            Token::Text(name) => names.push(name.clone()),
            Token::Sign(',') => {}
            Token::Sign(')') => return Ok(names),
            Token::Sign(_) | Token::Word(_) => break,
        }
    }
    Err("the name of a relation is a text in quotes".to_owned())
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// What stands between quotes, with its escapes as they are.
    Text(String),
    Sign(char),
}

/// Splits an expression into its tokens. A number is a word that nobody looks for.
fn tokens(expression: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
            continue;
        }
        if let Some((prefix, quote)) = opening(rest) {
            let raw = prefix.contains(['r', 'R']);
            let inside = rest.get(prefix.len() + quote.len()..).unwrap_or_default();
            let length = closing(inside, quote, raw)
                .ok_or_else(|| format!("a text that begins with {quote} does not end"))?;
            let (text, after) = inside.split_at(length);
            tokens.push(Token::Text(text.to_owned()));
            rest = after.get(quote.len()..).unwrap_or_default();
            continue;
        }
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = match rest.find(|c: char| !is_word(c)) {
            Some(0) => first.len_utf8(),
            Some(length) => length,
            None => rest.len(),
        };
        let (token, after) = rest.split_at(length);
        if is_word(first) {
            tokens.push(Token::Word(token.to_owned()));
        } else if !first.is_whitespace() {
            tokens.push(Token::Sign(first));
        }
        rest = after;
    }
    Ok(tokens)
}

/// Returns the letters before a text's quotes and the quotes, if a text begins here.
fn opening(rest: &str) -> Option<(&str, &str)> {
    let start = rest.find(['\'', '"'])?;
    let (prefix, quoted) = rest.split_at(start);
    let is_prefix = matches!(
        prefix.to_ascii_lowercase().as_str(),
        "" | "r" | "b" | "rb" | "br"
    );
    let quote = ["'''", "\"\"\"", "'", "\""]
        .into_iter()
        .find(|quote| quoted.starts_with(quote))?;
    is_prefix.then_some((prefix, quote))
}

/// Returns where the quotes close a text.
fn closing(inside: &str, quote: &str, raw: bool) -> Option<usize> {
    let mut escaped = false;
    inside.char_indices().find_map(|(at, c)| {
        if escaped {
            escaped = false;
            return None;
        }
        escaped = c == '\\' && !raw;
        inside
            .get(at..)
            .is_some_and(|rest| rest.starts_with(quote))
            .then_some(at)
    })
}
