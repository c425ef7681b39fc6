//! Secrets that are recognised by their own shape, wherever they stand.

use std::sync::{LazyLock, OnceLock};

use super::Hit;
use super::expression::Expression;
use super::placeholder::{entropy, is_placeholder};
use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// One shape: `kind`, a word that must stand in the text for the expression to be tried at all,
/// the expression, whose first group is the secret, and what that must pass.
struct Shape {
    kind: &'static str,
    word: &'static str,
    expression: &'static str,
    test: fn(&str) -> bool,
}

fn any(_: &str) -> bool {
    true
}

fn looks_random(secret: &str) -> bool {
    entropy(secret) >= 3.0 && !is_placeholder(secret)
}

/// A 40-character secret access key: base64 without padding, and no hash in hex.
fn looks_like_secret_key(secret: &str) -> bool {
    let hex = secret.chars().all(|c| c.is_ascii_hexdigit());
    let mixed = secret.chars().any(|c| c.is_ascii_uppercase())
        && secret.chars().any(|c| c.is_ascii_lowercase());
    !hex && mixed && entropy(secret) >= 3.5
}

/// A first part that is a JSON object with `alg`, as RFC 7519 wants it.
fn is_jwt(secret: &str) -> bool {
    let header = secret.split('.').next().unwrap_or_default();
    URL_SAFE_NO_PAD
        .decode(header)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok())
        .is_some_and(|header| header.get("alg").is_some())
}

/// A password in a link or a connection string; low entropy is no excuse there.
fn is_password(secret: &str) -> bool {
    !is_placeholder(secret)
}

/// A key block with more between its lines than dots.
fn has_body(secret: &str) -> bool {
    let body: String = secret.chars().filter(|c| !c.is_whitespace()).collect();
    body.len() >= 100 && !body.contains("...") && !body.to_ascii_lowercase().contains("example")
}

// Prefixes and lengths. Sources: AWS, "IAM identifiers", unique identifiers; GitHub, "Behind
// GitHub's new authentication token formats"; GitLab, "Token overview", prefixes; Slack, "Token
// types"; Google, "Using API keys"; Azure, "Configure Azure Storage connection strings"; RFC 7468
// (key blocks), RFC 7519 (JWT), RFC 3986 3.2.1 (userinfo). Read 2026-11.
const SHAPES: &[Shape] = &[
    Shape {
        kind: "private-key",
        word: "PRIVATE KEY",
        expression: r"(-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----[\s\S]*?-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----)",
        test: has_body,
    },
    Shape {
        kind: "private-key",
        word: "PuTTY-User-Key-File",
        expression: r"(PuTTY-User-Key-File-[23]: [\s\S]*?Private-MAC: [0-9a-f]+)",
        test: any,
    },
    Shape {
        kind: "aws-access-key-id",
        word: "A",
        expression: r"\b((?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16})\b",
        test: looks_random,
    },
    Shape {
        kind: "aws-secret-access-key",
        word: "aws",
        expression: r#"(?i)aws[\w.\-]{0,30}(?:secret|key|sk|pw|pass)[\w.\-]{0,30}["']?\s{0,5}(?:=|:|:=|=>|\s)\s{0,5}\\?["']?([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+=]|$)"#,
        test: looks_like_secret_key,
    },
    Shape {
        kind: "aws-secret-access-key",
        word: "secret",
        expression: r#"(?i)secret[_\-. ]?(?:access)?[_\-. ]?key["']?\s{0,5}(?:=|:|:=|=>|\s)\s{0,5}\\?["']?([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+=]|$)"#,
        test: looks_like_secret_key,
    },
    Shape {
        kind: "aws-session-token",
        word: "session",
        expression: r#"(?i)session[_\-. ]?token["']?\s{0,5}(?:=|:|:=|\s)\s{0,5}\\?["']?([A-Za-z0-9/+=]{100,})"#,
        test: looks_random,
    },
    Shape {
        kind: "github-token",
        word: "gh",
        expression: r"\b(gh[pousr]_[A-Za-z0-9]{36,255})\b",
        test: looks_random,
    },
    Shape {
        kind: "github-token",
        word: "github_pat_",
        expression: r"\b(github_pat_[A-Za-z0-9_]{22,255})\b",
        test: looks_random,
    },
    Shape {
        kind: "gitlab-token",
        word: "gl",
        expression: r"\b(gl(?:pat|dt|rt|cbt|ptt|ft|soat|oas|imt|agent|ffct|rtr)-[A-Za-z0-9_\-.]{20,300})",
        test: looks_random,
    },
    Shape {
        kind: "gitlab-token",
        word: "GR1348941",
        expression: r"\b(GR1348941[A-Za-z0-9_\-]{20,50})",
        test: looks_random,
    },
    Shape {
        kind: "slack-token",
        word: "xox",
        expression: r"\b(xox[abeoprs](?:\.xox[abp])?-[A-Za-z0-9\-]{10,250})",
        test: looks_random,
    },
    Shape {
        kind: "slack-token",
        word: "xapp-",
        expression: r"\b(xapp-\d-[A-Z0-9]{5,20}-\d{5,20}-[A-Za-z0-9]{20,100})\b",
        test: looks_random,
    },
    Shape {
        kind: "slack-webhook",
        word: "hooks.slack.com",
        expression: r"(https://hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9+/]{24,80})",
        test: any,
    },
    Shape {
        kind: "jwt",
        word: "eyJ",
        expression: r"\b(eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{10,})",
        test: is_jwt,
    },
    Shape {
        kind: "azure-storage-key",
        word: "AccountKey",
        expression: r"(?i)AccountKey\s*=\s*([A-Za-z0-9+/]{86}==)",
        test: looks_random,
    },
    Shape {
        kind: "azure-shared-access-key",
        word: "SharedAccessKey",
        expression: r"(?i)SharedAccessKey\s*=\s*([A-Za-z0-9+/]{43}=)",
        test: looks_random,
    },
    Shape {
        kind: "azure-sas-token",
        word: "sig=",
        expression: r"(?i)[?&;](?:sv|se|sp|sr)=[^\s]*[?&]sig=([A-Za-z0-9%+/]{40,120}=?)",
        test: looks_random,
    },
    Shape {
        kind: "google-api-key",
        word: "AIza",
        expression: r"\b(AIza[0-9A-Za-z_\-]{35})(?:[^0-9A-Za-z_\-]|$)",
        test: looks_random,
    },
    Shape {
        kind: "connection-string",
        word: "://",
        expression: r#"\b[A-Za-z][A-Za-z0-9+.\-]{1,30}://[^\s:/@'"<>]{0,100}:([^\s/@'"<>]{3,200}|[^\s@'"<>]{3,200})@[A-Za-z0-9\[$]"#,
        test: is_password,
    },
    Shape {
        kind: "connection-string",
        word: "ser",
        expression: r#"(?i)(?:Server|Data Source|Host|Addr(?:ess)?|User(?: Id| ?name)?|UID)\s*=[^;\n"']{1,200};[^\n"']{0,300}?\b(?:Password|Pwd)\s*=\s*([^;\s"']{3,200})"#,
        test: is_password,
    },
    Shape {
        kind: "connection-string",
        word: "jdbc:",
        expression: r#"(?i)jdbc:[a-z0-9:]+[^\s"']{0,300}?[?&;]password=([^&;\s"']{3,200})"#,
        test: is_password,
    },
    Shape {
        kind: "npm-token",
        word: "npm_",
        expression: r"\b(npm_[A-Za-z0-9]{36})\b",
        test: looks_random,
    },
    Shape {
        kind: "pypi-token",
        word: "pypi-",
        expression: r"\b(pypi-AgE[A-Za-z0-9_\-]{50,400})",
        test: looks_random,
    },
    Shape {
        kind: "stripe-key",
        word: "_live_",
        expression: r"\b([rs]k_live_[A-Za-z0-9]{20,200})\b",
        test: looks_random,
    },
    Shape {
        kind: "sendgrid-key",
        word: "SG.",
        expression: r"\b(SG\.[A-Za-z0-9_\-]{20,24}\.[A-Za-z0-9_\-]{39,50})\b",
        test: looks_random,
    },
    Shape {
        kind: "authorization-header",
        word: "authorization",
        expression: r#"(?i)authorization["']?\s*[:=]\s*["']?(?:bearer|basic|token|apikey)\s+([A-Za-z0-9+/._~\-]{8,}=*)"#,
        test: looks_random,
    },
    // Ways a start script passes a password to a program.
    Shape {
        kind: "password",
        word: "chpasswd",
        expression: r#"(?m)(?:echo|printf)[^\n|]{0,40}?["']?[A-Za-z0-9_.\-]+:([^\s"'|]{4,100})["']?\s*\|[^\n]*chpasswd"#,
        test: is_password,
    },
    Shape {
        kind: "password",
        word: "sshpass",
        expression: r#"\bsshpass\s+-p\s*["']?([^\s"']{4,100})"#,
        test: is_password,
    },
    Shape {
        kind: "password",
        word: "-p",
        expression: r#"\b(?:mysql|mysqldump|mysqladmin|mariadb)\b[^\n|;]{0,200}?\s-p["']?([^\s"']{4,100})"#,
        test: is_password,
    },
    Shape {
        kind: "password",
        word: "curl",
        expression: r#"\bcurl\b[^\n|;]{0,300}?\s(?:-u|--user)[ =]?["']?[^\s:"']{1,100}:([^\s"']{4,200})"#,
        test: is_password,
    },
    Shape {
        kind: "password",
        word: "net user",
        expression: r#"(?i)\bnet user\s+["']?[\w.\-]+["']?\s+["']?([^\s"'/]{4,100})"#,
        test: is_password,
    },
    Shape {
        kind: "password",
        word: "ConvertTo-SecureString",
        expression: r#"(?i)ConvertTo-SecureString\s+(?:-String\s+)?["']([^"']{4,200})["'][^\n]*-AsPlainText"#,
        test: is_password,
    },
];

/// Finds which shapes may be there.
static WORDS: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .build(SHAPES.iter().map(|shape| shape.word))
        .expect("the words are few and short")
});

/// The shapes' expressions, each compiled when its word is met first: together they take 4 MB, and
/// most words are in no text that an agent reads.
static EXPRESSIONS: [OnceLock<Expression>; SHAPES.len()] =
    [const { OnceLock::new() }; SHAPES.len()];

static LONE_SECRET_KEY: LazyLock<Expression> = LazyLock::new(|| {
    Expression::new(r"(?:^|[^A-Za-z0-9/+=])([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+=]|$)")
});

static SERVICE_ACCOUNT: LazyLock<Expression> =
    LazyLock::new(|| Expression::new(r#""type"\s*:\s*\\?"service_account\\?""#));

/// How far a secret key may stand from its access key id to be taken for it, in bytes.
const KEY_PAIR_BYTES: usize = 300;

/// Entropy from which a lone run of 40 characters beside an access key id is its secret.
const LONE_KEY_ENTROPY: f64 = 4.0;

/// Returns every secret of a known shape.
pub(super) fn find(text: &str) -> Vec<Hit<'_>> {
    let mut present = vec![false; SHAPES.len()];
    for word in WORDS.find_overlapping_iter(text) {
        if let Some(present) = present.get_mut(word.pattern().as_usize()) {
            *present = true;
        }
    }
    let mut hits: Vec<Hit<'_>> = Vec::new();
    let tried = SHAPES.iter().zip(&EXPRESSIONS).zip(present);
    for ((shape, expression), _) in tried.filter(|(_, present)| *present) {
        let expression = expression.get_or_init(|| Expression::new(shape.expression));
        for captures in expression.captures_iter(text) {
            let Some(secret) = captures.get(1) else {
                continue;
            };
            let free = |hit: &Hit<'_>| hit.end <= secret.start() || secret.end() <= hit.start;
            if (shape.test)(secret.as_str()) && hits.iter().all(free) {
                hits.push(Hit {
                    kind: shape.kind,
                    start: secret.start(),
                    end: secret.end(),
                    secret: secret.as_str(),
                });
            }
        }
    }
    add_lone_secret_keys(text, &mut hits);
    let is_key = |hit: &Hit<'_>| hit.kind == "private-key";
    if hits.iter().any(is_key) && SERVICE_ACCOUNT.is_match(text) {
        for hit in hits.iter_mut().filter(|hit| is_key(hit)) {
            hit.kind = "gcp-service-account-key";
        }
    }
    hits
}

/// Adds secret access keys that stand near an access key id without a telling name.
fn add_lone_secret_keys<'t>(text: &'t str, hits: &mut Vec<Hit<'t>>) {
    let ids: Vec<(usize, usize)> = hits
        .iter()
        .filter(|hit| hit.kind == "aws-access-key-id")
        .map(|hit| (hit.start, hit.end))
        .collect();
    if ids.is_empty() {
        return;
    }
    for captures in LONE_SECRET_KEY.captures_iter(text) {
        let Some(secret) = captures.get(1) else {
            continue;
        };
        let near = ids.iter().any(|(start, end)| {
            secret.start() <= end + KEY_PAIR_BYTES && *start <= secret.end() + KEY_PAIR_BYTES
        });
        let free = hits
            .iter()
            .all(|hit| hit.end <= secret.start() || secret.end() <= hit.start);
        if near
            && free
            && looks_like_secret_key(secret.as_str())
            && entropy(secret.as_str()) >= LONE_KEY_ENTROPY
            && !is_placeholder(secret.as_str())
        {
            hits.push(Hit {
                kind: "aws-secret-access-key",
                start: secret.start(),
                end: secret.end(),
                secret: secret.as_str(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_compiles_before_a_text_asks_for_it() {
        for shape in SHAPES {
            // Panics on one that does not.
            let _ = Expression::new(shape.expression);
        }
        LazyLock::force(&LONE_SECRET_KEY);
        LazyLock::force(&SERVICE_ACCOUNT);
    }
}
