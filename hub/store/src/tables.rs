//! Every table: its key, its sealed value and what it means.
//!
//! Keys are built in [`crate::keys`] and nowhere else. `h(x)` is 16 bytes of a keyed hash under a
//! key of the file's owner, so equal names in two organisations have different keys; times are
//! milliseconds since 1970 in 8 bytes, numbers are big endian, so that byte order is their order.

/// A table of an organisation's or of the appliance's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum Table {
    // -- of both -------------------------------------------------------------------------------
    /// `h(name)` → single values: the owner's identity, the list of checks, counters, audit head and
    /// base, retention with its legal holds.
    Meta = 0,
    // -- of an organisation --------------------------------------------------------------------
    /// `h(scope)` → scope status.
    Scopes = 1,
    /// `h(scope) h(urn)` → resource with its document, so that a scope is one range.
    Resources = 2,
    /// `h(scope) h(urn) until` → document that was replaced or retired.
    ResourceHistory = 3,
    /// `h(resource id)` → URN.
    ResourceIds = 4,
    /// `h(from) h(rel) h(to)` → link.
    LinksOut = 5,
    /// `h(to) h(rel) h(from)` → link, seen from its other end.
    LinksIn = 6,
    /// `h(scope) h(urn)` → URN staged as gone in the current sweep.
    Gone = 7,
    /// `h(scope) h(urn)`, or `h(scope)` and zeros for the scope itself → verdicts.
    Verdicts = 8,
    /// `time h(scope) h(urn)` → subject with a verdict due then.
    Due = 9,
    /// `h(finding id)` → finding.
    Findings = 10,
    /// `h(finding id) time commit` → transition.
    FindingHistory = 11,
    /// `h(agent) lane epoch` → stream; its number stands in the engine's mark of the same key.
    Streams = 12,
    /// `h(agent) lane epoch last-sequence` → signed batch header.
    Batches = 13,
    /// `block key` → agent, source, payload as the agent compressed it.
    Blocks = 14,
    /// `block key` → times, severities, token filter of the block.
    BlockIndex = 15,
    /// `time counter` → refused item.
    Quarantine = 16,
    /// `h(source id)` → source.
    Sources = 17,
    /// `h(agent id)` → what the agent last said about itself.
    AgentStatus = 18,
    /// `sequence` → audit entry.
    Audit = 19,
    /// `time counter` → items that an agent had and cannot send any more.
    Losses = 20,
    /// `h(agent id)` → the chain of bundles that its batches come in by.
    Carried = 21,
    /// `h(agent id)` → how many sources, scopes and resources it has.
    Tallies = 22,
    // -- of the appliance ----------------------------------------------------------------------
    /// `h(org id)` → organisation with its wrapped keyring.
    Orgs = 32,
    /// `h(lower-case name)` → organisation id.
    OrgNames = 33,
    /// `h(user id)` → user.
    Users = 34,
    /// `h(lower-case e-mail)` → user id.
    Emails = 35,
    /// `h(org) h(agent id)` → agent on the positive list.
    Agents = 36,
    /// `h(org) h(token id)` → enrolment token.
    Tokens = 37,
    /// `h(token id)` or `h(agent id)` → its organisation.
    Owners = 38,
    /// `h(session id)` → session.
    Sessions = 39,
    /// `h(name)` → one of the hub's own keys.
    Secrets = 40,
    /// `h(org) day` → signed end of the organisation's audit log, the last of that day.
    Checkpoints = 41,
}

/// More than the greatest number of a table.
pub(crate) const TABLES: usize = 42;

impl Table {
    /// The tables of an organisation's file.
    pub(crate) const ORG: &'static [Self] = &[
        Self::Meta,
        Self::Scopes,
        Self::Resources,
        Self::ResourceHistory,
        Self::ResourceIds,
        Self::LinksOut,
        Self::LinksIn,
        Self::Gone,
        Self::Verdicts,
        Self::Due,
        Self::Findings,
        Self::FindingHistory,
        Self::Streams,
        Self::Batches,
        Self::Blocks,
        Self::BlockIndex,
        Self::Quarantine,
        Self::Sources,
        Self::AgentStatus,
        Self::Audit,
        Self::Losses,
        Self::Carried,
        Self::Tallies,
    ];

    /// The tables of the appliance's file.
    pub(crate) const APPLIANCE: &'static [Self] = &[
        Self::Meta,
        Self::Orgs,
        Self::OrgNames,
        Self::Users,
        Self::Emails,
        Self::Agents,
        Self::Tokens,
        Self::Owners,
        Self::Sessions,
        Self::Secrets,
        Self::Checkpoints,
    ];

    /// Returns the table's name in the file and in errors.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Scopes => "scopes",
            Self::Resources => "resources",
            Self::ResourceHistory => "resource-history",
            Self::ResourceIds => "resource-ids",
            Self::LinksOut => "links-out",
            Self::LinksIn => "links-in",
            Self::Gone => "gone",
            Self::Verdicts => "verdicts",
            Self::Due => "due",
            Self::Findings => "findings",
            Self::FindingHistory => "finding-history",
            Self::Streams => "streams",
            Self::Batches => "batches",
            Self::Blocks => "blocks",
            Self::BlockIndex => "block-index",
            Self::Quarantine => "quarantine",
            Self::Sources => "sources",
            Self::AgentStatus => "agent-status",
            Self::Audit => "audit",
            Self::Losses => "losses",
            Self::Carried => "carried",
            Self::Tallies => "tallies",
            Self::Orgs => "orgs",
            Self::OrgNames => "org-names",
            Self::Users => "users",
            Self::Emails => "emails",
            Self::Agents => "agents",
            Self::Tokens => "tokens",
            Self::Owners => "owners",
            Self::Sessions => "sessions",
            Self::Secrets => "secrets",
            Self::Checkpoints => "checkpoints",
        }
    }

    /// Returns the table's number: part of every row's seal, so it never changes.
    pub(crate) const fn number(self) -> u8 {
        self as u8
    }

    /// Returns the table of a number.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        let mut all = Self::ORG.iter().chain(Self::APPLIANCE);
        all.find(|table| table.number() == number).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_the_format_names_every_table_with_its_number() {
        let page = include_str!("../../../docs/store-format.md");
        let (orgs, own) = page.split_once("### Tables of the hub's own file").unwrap();
        for (part, tables) in [(orgs, Table::ORG), (own, Table::APPLIANCE)] {
            for table in tables {
                let row = format!("| {} | `{}` | ", table.number(), table.name());
                assert!(part.contains(&row), "{row}");
            }
            let rows = |line: &&str| {
                let mut cells = line.split('|').skip(1);
                let number = cells.next().map(|cell| cell.trim().parse::<u8>().is_ok());
                number == Some(true) && cells.next().is_some_and(|cell| cell.contains('`'))
            };
            let named: std::collections::BTreeSet<&str> = part
                .lines()
                .filter(rows)
                .filter_map(|line| line.split('|').nth(2))
                .collect();
            assert_eq!(named.len(), tables.len(), "{named:?}");
        }
        let format = crate::engine::FORMAT;
        assert!(page.contains(&format!("# Store format, version {format}\n")));
    }
}
