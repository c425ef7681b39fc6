//! Passwords of people: which are good enough, how they are hashed and compared.
//!
//! Called by `cli::init` and by the API. The rules are those of NIST SP 800-63B-4, section
//! 3.1.1.2: a least length, a list of the worst ones, and no rule about kinds of characters.
//! Hashes are Argon2id in the PHC text form.

use std::sync::Arc;

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::failure::{Exit, Explain};

/// Least length, in characters.
pub(crate) const LEAST_CHARS: usize = 12;

/// Greatest length, in bytes: far beyond any phrase, and little work to hash.
pub(crate) const MOST_BYTES: usize = 1024;

/// How many passwords may be hashed at once. Each takes 19 MiB and tens of milliseconds of a
/// core, so this bounds what strangers can make the hub spend.
const AT_ONCE: usize = 4;

/// How many more may wait for that; beyond it an attempt is refused at once.
const WAITING: usize = 64;

/// Words that the passwords tried first are made of: with digits, signs and capitals around them
/// they are no better. Lower case, letters only.
const WORST: &[&str] = &[
    "abc",
    "abcd",
    "abcdef",
    "abcdefgh",
    "abcdefghij",
    "abcdefghijkl",
    "abcdefghijklm",
    "abcdefghijklmnopqrstuvwxyz",
    "access",
    "admin",
    "adminadmin",
    "adminadminadmin",
    "administrator",
    "asdf",
    "asdfasdfasdf",
    "asdfgh",
    "asdfghjkl",
    "asdfghjklqwerty",
    "azerty",
    "azertyuiop",
    "baseball",
    "batman",
    "changeit",
    "changeme",
    "changemenow",
    "changemeplease",
    "charlie",
    "company",
    "correcthorsebatterystaple",
    "default",
    "defaultpassword",
    "dragon",
    "football",
    "freedom",
    "guest",
    "hello",
    "helloworld",
    "iloveyou",
    "iloveyouiloveyou",
    "jesus",
    "jordan",
    "letmein",
    "letmeinletmein",
    "letmeinnow",
    "letmeinplease",
    "login",
    "love",
    "master",
    "michael",
    "monkey",
    "mustang",
    "mypassword",
    "newpassword",
    "nopassword",
    "onetwothreefour",
    "pass",
    "passpass",
    "passpasspass",
    "password",
    "passwordadmin",
    "passwordpassword",
    "passwort",
    "princess",
    "private",
    "qazwsx",
    "qazwsxedc",
    "qazwsxedcrfv",
    "qwer",
    "qwerasdfzxcv",
    "qwert",
    "qwerty",
    "qwertyqwerty",
    "qwertyui",
    "qwertyuiop",
    "qwertyuiopasdfghjkl",
    "qwertyuiopasdfghjklzxcvbnm",
    "qwertz",
    "qwertzuiop",
    "root",
    "rootroot",
    "rootrootroot",
    "sample",
    "secret",
    "secretpassword",
    "secretsecret",
    "security",
    "service",
    "shadow",
    "spring",
    "starwars",
    "summer",
    "sunshine",
    "superman",
    "superuser",
    "system",
    "temp",
    "temporary",
    "test",
    "testing",
    "testpassword",
    "testtest",
    "testtesttest",
    "thisismypassword",
    "trustno",
    "user",
    "username",
    "welcome",
    "welcomewelcome",
    "whatever",
    "winter",
    "zerox",
    "zeroxhub",
    "zxcvbn",
    "zxcvbnm",
    "zxcvbnmasdfghjkl",
];

/// Says why a password is refused, or could not be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PasswordError {
    /// Too short.
    #[error("the password has {chars} characters; at least {LEAST_CHARS} are needed")]
    Short {
        /// Its length in characters.
        chars: usize,
    },
    /// Too long.
    #[error("the password is longer than {MOST_BYTES} bytes")]
    Long,
    /// Among the worst.
    #[error("the password is one that attackers try first")]
    Common,
    /// Guessable from what everybody knows.
    #[error("the password repeats the e-mail address or a single character")]
    Repeats,
    /// Too many people sign in at once.
    #[error("too many passwords are being looked at")]
    Busy,
    /// Hashing failed.
    #[error("the password could not be hashed")]
    Hash {
        /// What the hash function says.
        reason: String,
    },
}

impl Explain for PasswordError {
    fn exit(&self) -> Exit {
        Exit::Usage
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::Short { .. } | Self::Long | Self::Common | Self::Repeats => Some(
                "choose a longer one, for example four random words; no mix of signs is required"
                    .to_owned(),
            ),
            Self::Busy => Some("try again in a moment".to_owned()),
            Self::Hash { .. } => None,
        }
    }
}

/// Refuses a new password that is short, endless, among the worst, or a repetition of `email`.
///
/// # Errors
///
/// The first rule that it breaks.
pub(crate) fn check(password: &str, email: &str) -> Result<(), PasswordError> {
    if password.len() > MOST_BYTES {
        return Err(PasswordError::Long);
    }
    let chars = password.chars().count();
    if chars < LEAST_CHARS {
        return Err(PasswordError::Short { chars });
    }
    let lower = Zeroizing::new(password.to_lowercase());
    let first = lower.chars().next();
    let email = email.trim().to_lowercase();
    let local = email.split('@').next().unwrap_or_default();
    let bare = letters(&lower);
    let is_address = *lower == email || *bare == *letters(&email) || *bare == *letters(local);
    if lower.chars().all(|letter| Some(letter) == first) || (!bare.is_empty() && is_address) {
        return Err(PasswordError::Repeats);
    }
    // Digits and signs alone are dates, telephone numbers and rows of the keyboard.
    if bare.is_empty() || WORST.contains(&bare.as_str()) {
        return Err(PasswordError::Common);
    }
    Ok(())
}

/// Returns the letters of a lower-case text, with the usual digits and signs that stand for
/// letters put back, and those at its ends left out: `p@ssw0rd2024!` becomes `password`.
fn letters(lower: &str) -> Zeroizing<String> {
    let core = lower.trim_matches(|c: char| !c.is_alphabetic() && !matches!(c, '@' | '$'));
    let letters = core.chars().filter_map(|letter| match letter {
        '0' => Some('o'),
        '1' | '!' => Some('i'),
        '3' => Some('e'),
        '4' | '@' => Some('a'),
        '5' | '$' => Some('s'),
        '7' => Some('t'),
        other => other.is_alphabetic().then_some(other),
    });
    Zeroizing::new(letters.collect())
}

/// Removes one line end, as a password that was piped in carries.
pub(crate) fn strip(text: &mut Zeroizing<String>) {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
}

/// Argon2id with 19 MiB, two passes and one lane.
/// Source: OWASP Password Storage Cheat Sheet, "Argon2id", which names this as a least setting.
fn argon2() -> Result<Argon2<'static>, PasswordError> {
    let failed = |error: argon2::Error| PasswordError::Hash {
        reason: error.to_string(),
    };
    let params = Params::new(19 * 1024, 2, 1, None).map_err(failed)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// Hashes and compares passwords on blocking threads, a few at a time.
#[derive(Debug, Clone)]
pub(crate) struct Hasher {
    at_once: Arc<Semaphore>,
    queue: Arc<Semaphore>,
}

impl Default for Hasher {
    fn default() -> Self {
        Self {
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            queue: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
        }
    }
}

impl Hasher {
    /// Returns the PHC text of a password's hash, with a fresh salt.
    ///
    /// # Errors
    ///
    /// When too many wait, or the hash function fails.
    pub(crate) async fn hash(&self, password: SecretString) -> Result<String, PasswordError> {
        self.run(move || {
            let made = argon2()?.hash_password(password.expose_secret().as_bytes());
            let failed = |error: argon2::password_hash::Error| PasswordError::Hash {
                reason: error.to_string(),
            };
            made.map(|hash| hash.to_string()).map_err(failed)
        })
        .await
    }

    /// Returns whether a password is the one that a hash was made of. A text that is no hash
    /// matches nothing.
    ///
    /// # Errors
    ///
    /// When too many wait, or the work could not be done.
    pub(crate) async fn verify(
        &self,
        password: SecretString,
        hash: String,
    ) -> Result<bool, PasswordError> {
        if password.expose_secret().len() > MOST_BYTES {
            return Ok(false);
        }
        self.run(move || {
            // The hash names its own parameters.
            Ok(argon2()?
                .verify_password(password.expose_secret().as_bytes(), hash.as_str())
                .is_ok())
        })
        .await
    }

    /// Takes every place until what it returns is dropped.
    #[cfg(test)]
    pub(crate) async fn hold(&self) -> tokio::sync::OwnedSemaphorePermit {
        let all = u32::try_from(AT_ONCE).unwrap();
        let turn = Arc::clone(&self.at_once).acquire_many_owned(all).await;
        turn.unwrap()
    }

    async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<R, PasswordError> + Send + 'static,
    ) -> Result<R, PasswordError> {
        let place = Arc::clone(&self.queue);
        let place = place.try_acquire_owned().map_err(|_| PasswordError::Busy)?;
        let turn = Arc::clone(&self.at_once).acquire_owned().await;
        let turn = turn.map_err(|_| PasswordError::Busy)?;
        // The permits go along: a caller who leaves does not make room for more work than fits.
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop((turn, place));
            result
        });
        done.await.map_err(|error| PasswordError::Hash {
            reason: error.to_string(),
        })?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(password: &str) -> String {
        check(password, "mira.jansen@example.org")
            .expect_err(password)
            .to_string()
    }

    #[test]
    fn length_and_the_worst_ones_decide_and_nothing_else() {
        assert!(refused("short").contains("5 characters"));
        assert!(refused("elevenchars").contains("11 characters"));
        for common in [
            "password1234",
            "P@ssw0rd2026!!",
            "Qwertyuiop123",
            "123456789012",
            "letmein-letmein-2026",
            "AdministratoR1",
            "Correct horse battery staple",
        ] {
            assert!(refused(common).contains("attackers try first"), "{common}");
        }
        for repeats in [
            "aaaaaaaaaaaaaa",
            "mira.jansen@example.org",
            "MiraJansen2026",
        ] {
            assert!(refused(repeats).contains("repeats"), "{repeats}");
        }
        assert!(refused(&"long and winding ".repeat(100)).contains("1024 bytes"));
        // No digit, capital or sign is asked for, and every script counts.
        for good in [
            "drums under wet gravel",
            "a long enough pass phrase",
            "täglich grüßt die mauer",
            "密码是一条很长很长的河流啊",
            "f3a9c1d07be4",
            "passwords-of-the-river-gods",
        ] {
            assert!(check(good, "mira.jansen@example.org").is_ok(), "{good}");
        }
        // An address of a few signs does not make every password a repetition.
        assert!(check("drums under wet gravel", "").is_ok());
    }

    #[test]
    fn one_line_end_is_no_part_of_a_password() {
        for (piped, password) in [
            ("a b\n", "a b"),
            ("a b\r\n", "a b"),
            ("a b\n\n", "a b\n"),
            ("a", "a"),
        ] {
            let mut text = Zeroizing::new(piped.to_owned());
            strip(&mut text);
            assert_eq!(*text, password);
        }
    }

    #[tokio::test]
    async fn a_hash_is_argon2id_and_verifies_only_its_own_password() {
        let hasher = Hasher::default();
        let secret = || SecretString::from("drums under wet gravel");
        let hash = hasher.hash(secret()).await.unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        assert_ne!(hash, hasher.hash(secret()).await.unwrap());
        assert!(hasher.verify(secret(), hash.clone()).await.unwrap());
        let other = SecretString::from("drums under wet grave");
        assert!(!hasher.verify(other, hash).await.unwrap());
        assert!(!hasher.verify(secret(), String::new()).await.unwrap());
    }

    #[tokio::test]
    async fn a_crowd_is_refused_rather_than_queued_without_bound() {
        let hasher = Hasher::default();
        let everyone = hasher.queue.clone().acquire_many_owned(68).await.unwrap();
        let secret = SecretString::from("drums under wet gravel");
        assert!(matches!(
            hasher.hash(secret).await,
            Err(PasswordError::Busy)
        ));
        drop(everyone);
    }
}
