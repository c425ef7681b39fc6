//! Lists as of an instant, and what became of them between two.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use jiff::{SignedDuration, Timestamp};
use protocol::Document;
use protocol::api::{
    CHANGES, DataClass, FINDING_CHANGE_FIELDS, FindingChange, Page, Problem,
    RESOURCE_CHANGE_FIELDS, ResourceChange,
};
use protocol::urn::Urn;
use serde::Deserialize;
use serde_json::Value;
use store::{Became, OrgReader, Past, ReadError};
use tokio::sync::{Semaphore, SemaphorePermit};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::access::Member;
use super::list::ListQuery;
use super::problem::{Query, Refusal};

/// How far a comparison goes back when nobody says.
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Who reads the past: it holds a summary of every row in memory, so one does at a time over all
/// organisations, and the others wait for as long as a request may take.
static READER: Semaphore = Semaphore::const_new(1);

/// Waits for the turn to read the past; at once for who reads the present. To be held while it is
/// read.
pub(super) async fn turn(as_of: Option<Timestamp>) -> Option<SemaphorePermit<'static>> {
    match as_of {
        Some(_) => READER.acquire().await.ok(),
        None => None,
    }
}

/// Most parts of a document that are named as changed.
const FIELDS: usize = 64;

pub(super) fn routes() -> OpenApiRouter<Arc<State>> {
    OpenApiRouter::new()
        .routes(routes!(resource_changes))
        .routes(routes!(finding_changes))
}

/// What a list takes that can be asked about the past.
#[derive(Debug, Default, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AsOfQuery {
    /// Organisation, by id or name; the oldest of yours when absent.
    #[expect(
        dead_code,
        reason = "`access` reads it; here it is allowed and described"
    )]
    org: Option<String>,
    /// Terms such as `severity>=high status=open`; see the manual for the grammar.
    filter: Option<String>,
    /// A field, with `-` in front for descending.
    sort: Option<String>,
    /// Rows per page, 1 to 1000; 100 when absent. A page of large rows has fewer.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// The instant to be shown; now when absent. What has no history is left out (evidence, gaps,
    /// mutes) or is today's (title, severity, risk and owner of a finding).
    #[param(value_type = Option<String>, format = DateTime)]
    as_of: Option<Timestamp>,
}

impl AsOfQuery {
    /// Returns what every list takes, and the instant.
    ///
    /// # Errors
    ///
    /// When the instant is to come.
    pub(super) fn split(self) -> Result<(ListQuery, Option<Timestamp>), Refusal> {
        if let Some(at) = self.as_of {
            refuse_future("as_of", at)?;
        }
        let list = ListQuery {
            org: None,
            filter: self.filter,
            sort: self.sort,
            limit: self.limit,
            cursor: self.cursor,
        };
        Ok((list, self.as_of))
    }
}

/// Returns the instant from before which a class was forgotten, if an earlier one is asked for: what
/// the answer shows is then not all that there was.
pub(super) fn forgotten_before(
    reader: &OrgReader,
    class: DataClass,
    at: Option<Timestamp>,
) -> Result<Option<Timestamp>, ReadError> {
    let line = reader.retention()?.forgotten_before(class);
    Ok(line.filter(|line| at.is_some_and(|at| at < *line)))
}

fn refuse_future(name: &str, at: Timestamp) -> Result<(), Refusal> {
    if at <= Timestamp::now() {
        return Ok(());
    }
    let detail = format!("{name}: {at} is in the future");
    Err(Refusal::bad_request("bad_instant", detail))
}

/// What a comparison takes.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct BetweenQuery {
    /// Organisation, by id or name; the oldest of yours when absent.
    #[expect(
        dead_code,
        reason = "`access` reads it; here it is allowed and described"
    )]
    org: Option<String>,
    /// The first instant; a week before the second when absent.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// The second instant; now when absent.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// Terms such as `change=removed type=aws.s3.bucket`.
    filter: Option<String>,
    /// A field, with `-` in front for descending.
    sort: Option<String>,
    /// Rows per page, 1 to 1000; 100 when absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl BetweenQuery {
    fn split(self) -> Result<(ListQuery, Timestamp, Timestamp), Refusal> {
        let to = self.to.unwrap_or_else(Timestamp::now);
        refuse_future("to", to)?;
        let from = match self.from {
            Some(from) => from,
            None => to.checked_sub(WEEK).unwrap_or(to),
        };
        if from > to {
            let detail = format!("from ({from}) is later than to ({to})");
            return Err(Refusal::bad_request("bad_instant", detail));
        }
        let list = ListQuery {
            org: None,
            filter: self.filter,
            sort: self.sort,
            limit: self.limit,
            cursor: self.cursor,
        };
        Ok((list, from, to))
    }
}

/// Compares the lists of two instants; also says what of the first one is forgotten.
async fn both<R: Send + 'static>(
    member: &Member,
    (from, to): (Timestamp, Timestamp),
    class: DataClass,
    work: impl FnOnce(&Past, &Past) -> R + Send + 'static,
) -> Result<(R, Option<Timestamp>), ReadError> {
    let turn = turn(Some(from)).await;
    let reading = member.store.read(move |reader| {
        let _turn = turn;
        let forgotten = forgotten_before(reader, class, Some(from))?;
        let (before, after) = (reader.as_of(from)?, reader.as_of(to)?);
        Ok((work(&before, &after), forgotten))
    });
    reading.await
}

/// Lists the resources that were added, changed or removed between two instants, by URN.
#[utoipa::path(
    get, path = "/api/v1/resources/changes", operation_id = "list_resource_changes",
    tag = "resources", params(BetweenQuery),
    responses(
        (status = 200, body = Page<ResourceChange>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn resource_changes(
    member: Member,
    Query(query): Query<BetweenQuery>,
) -> Result<Json<Page<ResourceChange>>, Refusal> {
    let (query, from, to) = query.split()?;
    let changes = both(
        &member,
        (from, to),
        DataClass::ResourceHistory,
        |before, after| {
            let changes = before.resources_until(after).into_iter();
            changes
                .map(|(became, row)| ResourceChange {
                    change: word(became).to_owned(),
                    resource_id: row.id,
                    urn: row.urn.to_string(),
                    type_name: row.type_name.to_string(),
                    name: row.name.to_string(),
                    account: row.urn.scope.account.clone(),
                    region: row.urn.scope.region.clone(),
                    fields: Vec::new(),
                })
                .collect()
        },
    );
    let (rows, forgotten_before) = changes.await?;
    let page = query.page_of(rows, RESOURCE_CHANGE_FIELDS, Timestamp::now())?;
    let named = member.store.read(move |reader| {
        let mut page = Page {
            forgotten_before,
            ..page
        };
        for row in &mut page.items {
            if row.change == word(Became::Changed)
                && let Ok(urn) = row.urn.parse::<Urn>()
                && let Some(before) = reader.resource_as_of(&urn, from)?
                && let Some(after) = reader.resource_as_of(&urn, to)?
            {
                row.fields = differing(&before.document, &after.document);
            }
        }
        Ok(page)
    });
    Ok(Json(named.await?))
}

const fn word(became: Became) -> &'static str {
    let [added, changed, removed] = CHANGES else {
        return "";
    };
    match became {
        Became::Added => added,
        Became::Changed => changed,
        Became::Removed => removed,
    }
}

/// Names the parts in which two documents differ.
fn differing(before: &Document, after: &Document) -> Vec<String> {
    let mut fields = BTreeSet::new();
    if before.name != after.name {
        fields.insert("name".to_owned());
    }
    if before.native_id != after.native_id {
        fields.insert("native_id".to_owned());
    }
    let tags = |document: &Document| serde_json::to_value(&document.tags).unwrap_or_default();
    let gaps = |document: &Document| serde_json::to_value(&document.gaps).unwrap_or_default();
    names(&mut fields, "config", &before.config, &after.config);
    names(&mut fields, "tags", &tags(before), &tags(after));
    names(&mut fields, "gaps", &gaps(before), &gaps(after));
    if before.links != after.links {
        fields.insert("links".to_owned());
    }
    fields.into_iter().take(FIELDS).collect()
}

fn names(fields: &mut BTreeSet<String>, part: &str, before: &Value, after: &Value) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for name in before.keys().chain(after.keys()) {
                if before.get(name) != after.get(name) {
                    fields.insert(format!("{part}.{name}"));
                }
            }
        }
        (before, after) if before != after => {
            fields.insert(part.to_owned());
        }
        _ => {}
    }
}

/// Lists the findings whose status or verdict changed between two instants.
#[utoipa::path(
    get, path = "/api/v1/findings/changes", operation_id = "list_finding_changes",
    tag = "findings", params(BetweenQuery),
    responses(
        (status = 200, body = Page<FindingChange>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn finding_changes(
    member: Member,
    Query(query): Query<BetweenQuery>,
) -> Result<Json<Page<FindingChange>>, Refusal> {
    let (query, from, to) = query.split()?;
    let changes = both(&member, (from, to), DataClass::Findings, |before, after| {
        let changes = before.findings_until(after).into_iter();
        changes
            .map(|(then, row)| FindingChange {
                id: row.id,
                check_id: row.check_id.to_string(),
                title: row.title.to_string(),
                severity: row.severity,
                resource_urn: row.urn.to_string(),
                status_before: then.map(|then| then.status),
                status: row.status,
                verdict_before: then.map(|then| then.verdict),
                verdict: row.verdict,
                first_seen: row.first_seen,
            })
            .collect()
    });
    let (rows, forgotten_before) = changes.await?;
    let page = query.page_of(rows, FINDING_CHANGE_FIELDS, Timestamp::now())?;
    Ok(Json(Page {
        forgotten_before,
        ..page
    }))
}
