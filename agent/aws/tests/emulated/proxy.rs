//! A reverse proxy before the emulator that answers one call differently, and remembers every
//! other answer so that a sync can be repeated many times in little time.

use std::collections::BTreeMap;
use std::io::{BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// One request, as far as the tests look at it.
pub(crate) struct Request {
    /// Service and operation, `s3:GetBucketPolicy`.
    pub(crate) call: String,
    /// Region of the signature.
    pub(crate) region: String,
    pub(crate) path: String,
    pub(crate) body: String,
    whole: Vec<u8>,
}

/// A status and a body.
#[derive(Clone)]
pub(crate) struct Answer {
    status: u16,
    kind: &'static str,
    body: Vec<u8>,
}

/// Decides whether a request is answered here.
pub(crate) type Rule = Arc<dyn Fn(&Request) -> Option<Answer> + Send + Sync>;

/// Answers that the emulator gave, by request.
pub(crate) type Memory = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// A running proxy. It serves until the test process ends.
pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    /// Calls with the region they were signed for, in the order they came.
    pub(crate) seen: Arc<Mutex<Vec<(String, String)>>>,
}

impl Proxy {
    /// Starts a proxy before `upstream`, which is a base URL on loopback. Answers in `memory` are
    /// not asked for again; with `learn`, they are, and replaced.
    pub(crate) fn start(upstream: &str, memory: &Memory, learn: bool, rule: Rule) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let memory = Arc::clone(memory);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (upstream, rule) = (upstream.clone(), Arc::clone(&rule));
                let (memory, log) = (Arc::clone(&memory), Arc::clone(&log));
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(connection.try_clone().unwrap());
                    while let Some(request) = Request::read(&mut reader) {
                        let entry = (request.call.clone(), request.region.clone());
                        locked(&log).push(entry);
                        let answer = match rule(&request) {
                            Some(answer) => answer.bytes(),
                            None => forward(&upstream, &memory, learn, &request),
                        };
                        if (&connection).write_all(&answer).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { endpoint, seen }
    }
}

/// Leaves the policies of AWS that nothing uses, but for a few, out of the remembered lists of
/// identities. They are 6 MB of text that every sync would read again to send nothing of it.
pub(crate) fn forget_unused_policies(memory: &Memory) {
    for (request, answer) in locked(memory).iter_mut() {
        if request.starts_with("iam:GetAccountAuthorizationDetails ") {
            let (head, body) = read_message(&mut answer.as_slice()).unwrap();
            let head = head.split("content-length:").next().unwrap();
            let body = used_policies(std::str::from_utf8(&body).unwrap());
            *answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes();
        }
    }
}

fn used_policies(page: &str) -> String {
    /// Unused ones that stay, so that leaving them out stays tested.
    const UNUSED: usize = 3;
    const END: &str = "</member>";
    let Some((before, rest)) = page.split_once("<Policies>") else {
        return page.to_owned();
    };
    let (policies, after) = rest.rsplit_once("</Policies>").unwrap();
    let (mut kept, mut unused) = (String::new(), 0);
    let (mut policy, mut depth) = (String::new(), 0_usize);
    // Each piece ends a member; those that begin in it lie within each other.
    for piece in policies.split_inclusive(END) {
        policy.push_str(piece);
        depth += piece.matches("<member>").count();
        depth -= usize::from(piece.ends_with(END));
        if depth > 0 {
            continue;
        }
        let is_unused = policy.contains("<Arn>arn:aws:iam::aws:")
            && policy.contains("<AttachmentCount>0</AttachmentCount>");
        unused += usize::from(is_unused);
        if !is_unused || unused <= UNUSED {
            kept.push_str(&policy);
        }
        policy.clear();
    }
    assert!(
        unused > UNUSED,
        "no policy is left out: has moto's XML changed?"
    );
    format!("{before}<Policies>{kept}</Policies>{after}")
}

pub(crate) fn locked<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forward(upstream: &str, memory: &Memory, learn: bool, request: &Request) -> Vec<u8> {
    let Request {
        call,
        region,
        path,
        body,
        whole,
    } = request;
    let key = format!("{call} {region} {path} {body}");
    if let Some(known) = locked(memory).get(&key).filter(|_| !learn) {
        return known.clone();
    }
    let mut connection = TcpStream::connect(upstream).unwrap();
    connection.write_all(whole).unwrap();
    let mut reader = BufReader::new(connection);
    let (head, body) = read_message(&mut reader).unwrap();
    let answer = [head.as_bytes(), &body].concat();
    locked(memory).insert(key, answer.clone());
    answer
}

/// Reads a message with a length, or chunked, and returns it with a length.
fn read_message(reader: &mut impl std::io::BufRead) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
            continue;
        }
        if lower.starts_with("transfer-encoding:") {
            chunked = true;
            continue;
        }
        if lower.starts_with("connection:") {
            continue;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    } else {
        body.resize(length, 0);
        reader.read_exact(&mut body).ok()?;
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    Some((head, body))
}

impl Answer {
    fn bytes(&self) -> Vec<u8> {
        let (status, kind, length) = (self.status, self.kind, self.body.len());
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
        );
        [head.as_bytes(), &self.body].concat()
    }

    pub(crate) fn xml(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            kind: "text/xml",
            body: body.into().into_bytes(),
        }
    }

    pub(crate) fn json(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            kind: "application/json",
            body: body.into().into_bytes(),
        }
    }

    /// The refusal of the service's own protocol.
    pub(crate) fn refusal(call: &str, status: u16, code: &str) -> Self {
        let service = call.split(':').next().unwrap_or_default();
        let text = "not for you: secret-words";
        let error = format!("<Code>{code}</Code><Message>{text}</Message>");
        match service {
            "account" => {
                let body = format!("{{\"__type\":\"{code}\",\"message\":\"{text}\"}}");
                Self::json(status, body)
            }
            "ec2" => Self::xml(
                status,
                format!(
                    "<Response><Errors><Error>{error}</Error></Errors><RequestID>0</RequestID></Response>"
                ),
            ),
            "s3" => Self::xml(
                status,
                format!("<Error>{error}<RequestId>0</RequestId></Error>"),
            ),
            _ => Self::xml(
                status,
                format!(
                    "<ErrorResponse><Error><Type>Sender</Type>{error}</Error><RequestId>0</RequestId></ErrorResponse>"
                ),
            ),
        }
    }
}

/// The words by which S3's query strings tell operations apart.
const S3: &[(&str, &str)] = &[
    ("acl", "GetBucketAcl"),
    ("cors", "GetBucketCors"),
    ("encryption", "GetBucketEncryption"),
    ("lifecycle", "GetBucketLifecycleConfiguration"),
    ("location", "GetBucketLocation"),
    ("logging", "GetBucketLogging"),
    ("notification", "GetBucketNotificationConfiguration"),
    ("object-lock", "GetObjectLockConfiguration"),
    ("ownershipControls", "GetBucketOwnershipControls"),
    ("policy", "GetBucketPolicy"),
    ("policyStatus", "GetBucketPolicyStatus"),
    ("publicAccessBlock", "GetPublicAccessBlock"),
    ("replication", "GetBucketReplication"),
    ("tagging", "GetBucketTagging"),
    ("versioning", "GetBucketVersioning"),
    ("website", "GetBucketWebsite"),
];

impl Request {
    fn read(reader: &mut impl std::io::BufRead) -> Option<Self> {
        let (head, body) = read_message(reader)?;
        let path = head.split(' ').nth(1)?.to_owned();
        let scope = head.split("Credential=").nth(1).unwrap_or_default();
        let scope: Vec<&str> = scope.split(['/', ',']).collect();
        let region = scope.get(2).copied().unwrap_or_default().to_owned();
        let service = scope.get(3).copied().unwrap_or_default();
        let text = String::from_utf8_lossy(&body).into_owned();
        let call = format!("{service}:{}", operation(service, &path, &text));
        let call = match path.starts_with("/v20180820/") {
            true => call.replacen("s3:", "s3control:", 1),
            false => call,
        };
        let whole = [head.as_bytes(), &body].concat();
        Some(Self {
            call,
            region,
            path,
            body: text,
            whole,
        })
    }
}

fn operation<'r>(service: &str, path: &'r str, body: &'r str) -> &'r str {
    let mut pairs = body.split('&');
    if let Some(action) = pairs.find_map(|pair| pair.strip_prefix("Action=")) {
        return action;
    }
    if let Some(path) = path.strip_prefix("/v20180820/") {
        let path = path.split('?').next().unwrap_or_default();
        return match path {
            "configuration/publicAccessBlock" => "GetPublicAccessBlock",
            "accesspoint" => "ListAccessPoints",
            path if path.ends_with("/policy") => "GetAccessPointPolicy",
            _ => "GetAccessPoint",
        };
    }
    if service == "account" {
        return "GetAlternateContact";
    }
    let (bucket, query) = path.split_once('?').unwrap_or((path, ""));
    if bucket == "/" {
        return "ListBuckets";
    }
    let mut words = query
        .split('&')
        .map(|pair| pair.split('=').next().unwrap_or_default());
    let known = |word: &str| {
        let found = S3.iter().find(|(known, _)| *known == word);
        found.map(|(_, name)| *name)
    };
    words.find_map(known).unwrap_or("unknown")
}
