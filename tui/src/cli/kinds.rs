//! What a table shows of each kind of object. JSON and CSV carry every field.

/// One column of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    /// Header.
    pub(super) title: &'static str,
    /// JSON pointer (RFC 6901) into a row.
    pub(super) pointer: &'static str,
    /// Most cells.
    pub(super) width: usize,
}

const fn column(title: &'static str, pointer: &'static str, width: usize) -> Column {
    Column {
        title,
        pointer,
        width,
    }
}

/// A kind of object: where its list is and what a table shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    /// Path of the list.
    pub(super) path: &'static str,
    /// Columns of the table.
    pub(super) columns: &'static [Column],
}

/// Findings.
pub(super) const FINDING: Kind = Kind {
    path: "/api/v1/findings",
    columns: &[
        column("SEVERITY", "/severity", 8),
        column("STATUS", "/status", 8),
        column("VERDICT", "/verdict", 7),
        column("RISK", "/risk/score", 4),
        column("ACCOUNT", "/resource/account", 20),
        column("REGION", "/resource/region", 14),
        column("RESOURCE", "/resource/name", 32),
        column("TITLE", "/title", 60),
        column("ID", "/id", 30),
    ],
};

/// Resources.
pub(super) const RESOURCE: Kind = Kind {
    path: "/api/v1/resources",
    columns: &[
        column("TYPE", "/type", 36),
        column("NAME", "/name", 32),
        column("ACCOUNT", "/account", 20),
        column("REGION", "/region", 14),
        column("LAST SEEN", "/last_seen", 20),
        column("URN", "/urn", 90),
    ],
};

/// Agents.
pub(super) const AGENT: Kind = Kind {
    path: "/api/v1/agents",
    columns: &[
        column("NAME", "/name", 24),
        column("STATE", "/state", 9),
        column("VERSION", "/version", 8),
        column("LAST SEEN", "/last_seen", 20),
        column("SPOOL", "/spool/bytes", 10),
        column("CERTIFICATE TO", "/certificate/not_after", 20),
        column("ID", "/id", 30),
    ],
};

/// Sources.
pub(super) const SOURCE: Kind = Kind {
    path: "/api/v1/sources",
    columns: &[
        column("NAME", "/name", 24),
        column("KIND", "/kind", 8),
        column("STATE", "/state", 8),
        column("LAST SYNC", "/last_sync", 20),
        column("ERRORS", "/errors", 60),
        column("ID", "/id", 30),
    ],
};

/// Checks.
pub(super) const CHECK: Kind = Kind {
    path: "/api/v1/checks",
    columns: &[
        column("SEVERITY", "/severity", 8),
        column("TYPE", "/type", 32),
        column("ID", "/id", 56),
        column("TITLE", "/title", 80),
    ],
};

/// Verdicts.
pub(super) const RESULT: Kind = Kind {
    path: "/api/v1/check-results",
    columns: &[
        column("VERDICT", "/verdict", 14),
        column("CHECK", "/check_id", 56),
        column("RESOURCE", "/resource_urn", 90),
    ],
};

/// Events.
pub(super) const EVENT: Kind = Kind {
    path: "/api/v1/events",
    columns: &[
        column("TIME", "/time", 20),
        column("SEVERITY", "/severity", 8),
        column("SOURCE", "/source", 16),
        column("ACTOR", "/actor", 24),
        column("ADDRESS", "/src_ip", 16),
        column("RESOURCE", "/resource", 24),
        column("ACTION", "/action", 70),
    ],
};

/// Organisations.
pub(super) const ORG: Kind = Kind {
    path: "/api/v1/orgs",
    columns: &[
        column("NAME", "/name", 40),
        column("ROLE", "/role", 8),
        column("CREATED", "/created_at", 20),
        column("ID", "/id", 30),
    ],
};

/// Users.
pub(super) const USER: Kind = Kind {
    path: "/api/v1/users",
    columns: &[
        column("EMAIL", "/email", 40),
        column("ROLE", "/role", 8),
        column("ID", "/id", 30),
    ],
};

/// The audit log.
pub(super) const AUDIT: Kind = Kind {
    path: "/api/v1/audit",
    columns: &[
        column("SEQ", "/seq", 8),
        column("AT", "/at", 20),
        column("ACTOR", "/actor", 30),
        column("ACTION", "/action", 24),
        column("OBJECT", "/object", 36),
        column("DETAIL", "/detail", 60),
    ],
};

/// Records that could not be read.
pub(super) const QUARANTINE: Kind = Kind {
    path: "/api/v1/quarantine",
    columns: &[
        column("AT", "/at", 20),
        column("AGENT", "/agent_id", 30),
        column("REASON", "/reason", 60),
        column("WHAT", "/what", 60),
    ],
};
