//! HTTP proxies: a TCP connection to the hub through `CONNECT` (RFC 9110 section 9.3.6). The proxy
//! sees the hub's address and TLS, nothing else.

use std::fmt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::{LinkError, first_of, tcp};

/// Longest head of a proxy's answer, in bytes.
const ANSWER_BYTES: usize = 8 << 10;

/// Longest file with credentials, in bytes.
const CREDENTIALS_BYTES: u64 = 4 << 10;

/// Longest line of a proxy's answer that is told, in characters.
const TOLD_CHARS: usize = 120;

/// `user:password`, which nothing shows.
#[derive(Clone, PartialEq, Eq)]
struct Credentials(Zeroizing<String>);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// What `hub.proxy` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Setting {
    /// None.
    #[default]
    Off,
    /// The one that `HTTPS_PROXY` and `NO_PROXY` name.
    Environment,
    /// This one.
    Named(Proxy),
}

impl Setting {
    /// Reads the value of `hub.proxy`.
    ///
    /// # Errors
    ///
    /// A clause that says what is wrong; it repeats nothing of the value.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::Off),
            "environment" => Ok(Self::Environment),
            url => {
                let proxy = Proxy::parse(url)?;
                if proxy.credentials.is_some() {
                    return Err("user and password stand in a file of their own, \
                                hub.proxy_credentials_file"
                        .to_owned());
                }
                Ok(Self::Named(proxy))
            }
        }
    }

    /// Returns the value as it would be written.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Off => String::new(),
            Self::Environment => "environment".to_owned(),
            Self::Named(proxy) => format!("http://{}", proxy.address),
        }
    }
}

/// An HTTP proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// `host:port`.
    pub(crate) address: String,
    credentials: Option<Credentials>,
    /// File with `user:password`; read anew for every connection.
    credentials_file: Option<PathBuf>,
    /// Hosts that are reached without it.
    direct: Vec<String>,
}

impl Proxy {
    /// Reads `http://[user:password@]host:port`.
    fn parse(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("http://");
        let rest = rest.ok_or_else(|| "a proxy is spoken to over http://".to_owned())?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, address) = match rest.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials), address),
            None => (None, rest),
        };
        let address = crate::config::address(address)?;
        Ok(Self {
            address: address.ok_or_else(|| "the host is missing".to_owned())?,
            credentials: credentials.map(|text| Credentials(Zeroizing::new(text.to_owned()))),
            credentials_file: None,
            direct: Vec::new(),
        })
    }

    /// Returns the proxy that is used with a setting.
    ///
    /// # Errors
    ///
    /// The variable that cannot be used and why; its value is not repeated.
    pub(crate) fn of(
        setting: &Setting,
        credentials_file: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, (&'static str, String)> {
        let either = |upper: &str, lower: &str| variable(upper).or_else(|| variable(lower));
        let mut proxy = match setting {
            Setting::Off => return Ok(None),
            Setting::Named(proxy) => proxy.clone(),
            Setting::Environment => {
                let url = either("HTTPS_PROXY", "https_proxy").filter(|url| !url.is_empty());
                let Some(url) = url else { return Ok(None) };
                let mut proxy = Self::parse(&url).map_err(|reason| ("HTTPS_PROXY", reason))?;
                let direct = either("NO_PROXY", "no_proxy").unwrap_or_default();
                proxy.direct = direct
                    .split(',')
                    .map(|host| host.trim().to_lowercase())
                    .filter(|host| !host.is_empty())
                    .collect();
                proxy
            }
        };
        proxy.credentials_file = credentials_file.map(Path::to_owned);
        Ok(Some(proxy))
    }

    /// Returns whether a hub is reached through the proxy. A name in `NO_PROXY` stands for itself
    /// and what is below it, `*` for all.
    pub(super) fn is_for(&self, address: &str) -> bool {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_matches(['[', ']']).to_lowercase();
        !self.direct.iter().any(|direct| {
            let name = direct.trim_start_matches("*.").trim_start_matches('.');
            direct == "*"
                || host == name
                || host
                    .strip_suffix(name)
                    .is_some_and(|rest| rest.ends_with('.'))
        })
    }

    /// Returns the value of `Proxy-Authorization` (RFC 7617).
    fn authorization(&self) -> Result<Option<Zeroizing<String>>, LinkError> {
        let of_file = self.credentials_file.as_deref().map(read_credentials);
        let of_file = of_file.transpose().map_err(|reason| LinkError::Proxy {
            proxy: self.address.clone(),
            status: None,
            reason,
        })?;
        let credentials = of_file.as_ref().or(self.credentials.as_ref());
        Ok(credentials.map(|Credentials(text)| {
            Zeroizing::new(format!("Basic {}", BASE64.encode(text.as_bytes())))
        }))
    }
}

fn read_credentials(path: &Path) -> Result<Credentials, String> {
    let failed = |reason: &dyn fmt::Display| {
        format!(
            "its credentials in {} cannot be read: {reason}",
            path.display()
        )
    };
    let size = std::fs::metadata(path)
        .map_err(|error| failed(&error))?
        .len();
    if size > CREDENTIALS_BYTES {
        return Err(failed(&format!("{size} bytes are too many")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    let text = Zeroizing::new(text);
    let line = text.trim_end_matches(['\r', '\n']);
    if !line.contains(':') || line.contains(['\r', '\n']) {
        return Err(failed(&"it holds one line, user:password"));
    }
    Ok(Credentials(Zeroizing::new(line.to_owned())))
}

/// Connects to a hub through a proxy.
///
/// # Errors
///
/// [`LinkError::Proxy`] with the proxy's words.
pub(super) async fn connect(proxy: &Proxy, address: &str) -> Result<TcpStream, LinkError> {
    let failed = |status, reason: String| LinkError::Proxy {
        proxy: proxy.address.clone(),
        status,
        reason,
    };
    let attempt = |socket| tcp::connect(&proxy.address, socket);
    let mut stream = match first_of(&proxy.address, attempt).await {
        Ok(stream) => stream,
        Err(LinkError::Unreachable { reason, .. } | LinkError::Resolve { reason, .. }) => {
            return Err(failed(None, format!("does not answer: {reason}")));
        }
        Err(error) => return Err(error),
    };
    let mut request = Zeroizing::new(format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n"));
    if let Some(authorization) = proxy.authorization()? {
        request.push_str("Proxy-Authorization: ");
        request.push_str(&authorization);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    let broke = |error: std::io::Error| failed(None, format!("broke off: {error}"));
    stream.write_all(request.as_bytes()).await.map_err(broke)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= ANSWER_BYTES {
            return Err(failed(None, "answers without an end".to_owned()));
        }
        // Byte by byte: what follows belongs to TLS.
        head.push(stream.read_u8().await.map_err(broke)?);
    }
    let head = String::from_utf8_lossy(&head);
    let line = head.lines().next().unwrap_or_default();
    match status_of(line) {
        Some(200..300) => Ok(stream),
        status => {
            let line: String = line.chars().take(TOLD_CHARS).collect();
            Err(failed(status, format!("answers {line:?}")))
        }
    }
}

/// Returns the code in a status line (RFC 9112 section 4).
fn status_of(line: &str) -> Option<u16> {
    let rest = line.strip_prefix("HTTP/1.")?;
    rest.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(https: &str, no: &str) -> Option<Proxy> {
        let variable = |name: &str| match name {
            "HTTPS_PROXY" => Some(https.to_owned()),
            "no_proxy" => Some(no.to_owned()),
            _ => None,
        };
        Proxy::of(&Setting::Environment, None, variable).unwrap()
    }

    #[test]
    fn a_proxy_is_an_http_address_and_its_password_stands_elsewhere() {
        assert_eq!(Setting::parse(""), Ok(Setting::Off));
        let named = Setting::parse("http://proxy.example:3128/").unwrap();
        assert_eq!(named.text(), "http://proxy.example:3128");
        for (text, want) in [
            ("https://proxy:1", "over http://"),
            ("proxy:3128", "over http://"),
            ("http://proxy", "the port is missing"),
            ("http://", "the host is missing"),
            ("http://joe:hunter2@proxy:1", "a file of their own"),
        ] {
            let told = Setting::parse(text).unwrap_err();
            assert!(told.contains(want), "{text}: {told}");
            assert!(!told.contains("hunter2"));
        }
    }

    #[test]
    fn the_environment_counts_only_when_the_setting_says_so_and_shows_no_password() {
        let never = |_: &str| panic!("nobody asked for it");
        assert_eq!(Proxy::of(&Setting::Off, None, never), Ok(None));
        assert_eq!(environment("", ""), None);
        let proxy = environment("http://joe:hunter2@proxy:3128", " a.example, .b.example").unwrap();
        assert_eq!(proxy.address, "proxy:3128");
        assert!(!format!("{proxy:?}").contains("hunter2"));
        let basic = proxy.authorization().unwrap().unwrap();
        assert_eq!(*basic, "Basic am9lOmh1bnRlcjI=");
        for (address, want) in [
            ("hub.example:7443", true),
            ("A.example:7443", false),
            ("x.a.example:7443", false),
            ("xa.example:7443", true),
            ("x.b.example:7443", false),
            ("[::1]:7443", true),
        ] {
            assert_eq!(proxy.is_for(address), want, "{address}");
        }
        assert!(!environment("http://proxy:1", "*").unwrap().is_for("hub:1"));
    }

    #[test]
    fn a_file_with_credentials_holds_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let setting = Setting::parse("http://proxy:1").unwrap();
            let proxy = Proxy::of(&setting, Some(&path), |_| None).unwrap().unwrap();
            proxy
                .authorization()
                .map(|value| value.unwrap().to_string())
        };
        assert_eq!(read("joe:hunter2\n").unwrap(), "Basic am9lOmh1bnRlcjI=");
        for text in ["", "hunter2", "joe:hunter2\nX-Other: 1\n"] {
            let told = read(text).unwrap_err().to_string();
            assert!(
                told.contains("user:password") && !told.contains("hunter2"),
                "{told}"
            );
        }
    }
}
