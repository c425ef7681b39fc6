//! serve.rs calls: `CurrentLeaf::issue(authority: Arc<Authority>, hosts: Vec<String>, now) -> Result<Arc<CurrentLeaf>, TlsError>`,
//! `CurrentLeaf::renew_if_due(&self, now: Timestamp) -> Result<bool, TlsError>` (true: renewed),
//! `for_agents(&Authority, Arc<CurrentLeaf>) -> Result<rustls::ServerConfig, TlsError>`,
//! `for_api(Arc<CurrentLeaf>) -> Result<rustls::ServerConfig, TlsError>`,
//! `read_own(&config::OwnTls) -> Result<rustls::ServerConfig, TlsError>`, `check_own(&config::OwnTls) -> Result<(), TlsError>`
//! (`OwnTls { certificate: PathBuf, key: PathBuf }`); `TlsError: Explain`.
