//! init calls: `check(password: &str, email: &str) -> Result<(), PasswordError>` (Explain), `strip(text: &mut Zeroizing<String>)`-like
//! trimming of one line end, `Hasher::default()` and `Hasher::hash(&self, SecretString) -> Result<String, PasswordError>` (async; blocking work inside).
