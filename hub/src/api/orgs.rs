//! Organisations and their people.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State as Shared;
use axum::{Extension, Json};
use http::StatusCode;
use jiff::Timestamp;
use protocol::api::{Org, OrgCreate, Page, Problem, ROLES, Role, User, UserCreate};
use protocol::filter::{FieldKind, FieldSpec, FieldValue, Row};
use protocol::ids::UserId;
use secrecy::{ExposeSecret, SecretString};
use store::error::ApplianceError;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::access::{Administered, Caller, HubAdmin, Member, Peer};
use super::list::{ListQuery, OrgQuery, WriteHeaders};
use super::problem::{Body, Query, Refusal};
use crate::password;

/// Longest name of an organisation or an agent, in characters.
const NAME_CHARS: usize = 100;

/// Longest e-mail address, in bytes. Source: RFC 5321, section 4.5.3.1.3, less its brackets.
const EMAIL_BYTES: usize = 254;

const fn field(name: &'static str, kind: FieldKind) -> FieldSpec {
    FieldSpec { name, kind }
}

/// Fields of an organisation that filters know.
const ORG_FIELDS: &[FieldSpec] = &[
    field("name", FieldKind::Text),
    field("role", FieldKind::Enum(ROLES)),
    field("created_at", FieldKind::Time),
    field("id", FieldKind::Text),
];

/// Fields of a user that filters know.
const USER_FIELDS: &[FieldSpec] = &[
    field("email", FieldKind::Text),
    field("role", FieldKind::Enum(ROLES)),
    field("id", FieldKind::Text),
];

/// An organisation as filters see it.
struct Listed<T>(T);

impl Row for Listed<Org> {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        match name {
            "name" => Some(FieldValue::Text(&self.0.name)),
            "role" => Some(FieldValue::Text(self.0.role?.word())),
            "created_at" => Some(FieldValue::Time(self.0.created_at)),
            "id" => Some(FieldValue::Owned(self.0.id.to_string())),
            _ => None,
        }
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(&self.0.name) || look(&self.0.id.to_string())
    }
}

impl Row for Listed<User> {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        match name {
            "email" => Some(FieldValue::Text(&self.0.email)),
            "role" => Some(FieldValue::Text(self.0.role.word())),
            "id" => Some(FieldValue::Owned(self.0.id.to_string())),
            _ => None,
        }
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(&self.0.email) || look(&self.0.id.to_string())
    }
}

fn page_of<T>(
    query: &ListQuery,
    rows: Vec<T>,
    fields: &[FieldSpec],
) -> Result<Json<Page<T>>, Refusal>
where
    Listed<T>: Row,
{
    let rows = rows.into_iter().map(Listed).collect();
    let page = query.page_of(rows, fields, Timestamp::now())?;
    Ok(Json(Page {
        items: page.items.into_iter().map(|row| row.0).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
        forgotten_before: None,
    }))
}

pub(super) fn routes() -> OpenApiRouter<Arc<State>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(users, create_user))
}

/// Returns a name without white space around it.
///
/// # Errors
///
/// When it is empty, too long, or holds what cannot be printed.
pub(super) fn check_name(name: &str) -> Result<String, Refusal> {
    let name = name.trim();
    let is_shown = |letter: char| !letter.is_control() && !is_bidi(letter);
    if (1..=NAME_CHARS).contains(&name.chars().count()) && name.chars().all(is_shown) {
        return Ok(name.to_owned());
    }
    Err(Refusal::bad_request(
        "bad_name",
        "a name has 1 to 100 printable characters",
    ))
}

/// Characters that turn the direction of the text around them, or are not seen at all.
/// Source: Unicode Standard Annex 9, table 4.
pub(super) const fn is_bidi(letter: char) -> bool {
    matches!(letter,
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Returns an address in lower case.
///
/// # Errors
///
/// When it does not have the form of one. Whether it exists only a message to it can tell.
fn check_email(email: &str) -> Result<String, Refusal> {
    let email = email.trim().to_lowercase();
    let is_plain =
        |letter: char| !letter.is_control() && !letter.is_whitespace() && !is_bidi(letter);
    let has_parts = email
        .rsplit_once('@')
        .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if has_parts && email.len() <= EMAIL_BYTES && email.chars().all(is_plain) {
        return Ok(email);
    }
    Err(Refusal::bad_request(
        "bad_email",
        "this is not an e-mail address",
    ))
}

/// Lists the organisations that the caller has a role in, by name; all of them for a hub
/// administrator.
#[utoipa::path(
    get, path = "/api/v1/orgs", operation_id = "list_orgs", tag = "orgs", params(ListQuery),
    responses(
        (status = 200, body = Page<Org>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list(
    Shared(state): Shared<Arc<State>>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Org>>, Refusal> {
    let user = &caller.user;
    let mut found = if user.hub_admin {
        state.appliance.orgs().await?
    } else {
        let own = user.roles.keys().copied();
        state.appliance.orgs_among(own).await?
    };
    found.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    let orgs = found
        .into_iter()
        .map(|org| Org {
            role: user.roles.get(&org.id).copied(),
            id: org.id,
            name: org.name,
            created_at: org.created_at,
        })
        .collect();
    page_of(&query, orgs, ORG_FIELDS)
}

/// Makes an organisation. Its maker gets no role in it: a hub administrator has no data access.
#[utoipa::path(
    post, path = "/api/v1/orgs", operation_id = "create_org", tag = "orgs",
    params(WriteHeaders),
    request_body = OrgCreate,
    responses(
        (status = 201, body = Org),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 403, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn create(
    Shared(state): Shared<Arc<State>>,
    HubAdmin(caller): HubAdmin,
    Body(request): Body<OrgCreate>,
) -> Result<(StatusCode, Json<Org>), Refusal> {
    let name = check_name(&request.name)?;
    let made = state.appliance.create_org(&name, Timestamp::now()).await?;
    state.live.tell_org_made();
    let administration = state
        .appliance
        .admit_administrator(caller.user.id, made.id)
        .await?;
    let administered = Administered::by_hub(caller, administration);
    administered
        .audit("org.create", made.id.to_string(), format!("{name:?}"))
        .await?;
    let org = Org {
        id: made.id,
        name: made.name,
        created_at: made.created_at,
        role: None,
    };
    Ok((StatusCode::CREATED, Json(org)))
}

/// Lists the users of an organisation, by e-mail address.
#[utoipa::path(
    get, path = "/api/v1/users", operation_id = "list_users", tag = "orgs", params(ListQuery),
    responses(
        (status = 200, body = Page<User>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn users(
    Shared(state): Shared<Arc<State>>,
    member: Member,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<User>>, Refusal> {
    let org = member.store.org();
    let users = state.appliance.users().await?;
    let rows = users.into_iter().filter_map(|user| {
        let role = *user.roles.get(&org)?;
        Some(User {
            id: user.id,
            email: user.email,
            role,
        })
    });
    page_of(&query, rows.collect(), USER_FIELDS)
}

/// Checks what a hub administrator asks for in an organisation without an admin.
///
/// # Errors
///
/// When it is not an admin, or the hub administrator itself, who would have the data by it.
fn check_first(caller: &str, email: &str, role: Role) -> Result<(), Refusal> {
    if role != Role::Admin {
        return Err(Refusal::forbidden(
            "a hub administrator makes the first admin of an organisation and nobody else; that \
             admin makes its other users",
        ));
    }
    if caller == email {
        return Err(Refusal::forbidden(
            "a hub administrator gives no role to itself; name another person as the first admin",
        ));
    }
    Ok(())
}

/// Makes a user with a role in this organisation.
///
/// Takes an admin of the organisation; or, as long as it has none, a hub administrator, who makes
/// its first admin and never itself. A hub administrator, or an admin of another organisation
/// of the person, may also name somebody who exists, with the password
/// that the person has: the account may have been made by somebody who is nothing here, and whoever
/// knows its password gets the role. Any other password is refused like a stranger's address.
#[utoipa::path(
    post, path = "/api/v1/users", operation_id = "create_user", tag = "orgs",
    params(OrgQuery, WriteHeaders),
    request_body = UserCreate,
    responses(
        (status = 201, body = User),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 403, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn create_user(
    Shared(state): Shared<Arc<State>>,
    administered: Administered,
    Extension(Peer(peer)): Extension<Peer>,
    Query(_org): Query<OrgQuery>,
    Body(request): Body<UserCreate>,
) -> Result<(StatusCode, Json<User>), Refusal> {
    let password = SecretString::from(request.password);
    let email = check_email(&request.email)?;
    if administered.is_founding() {
        check_first(&administered.caller.user.email, &email, request.role)?;
    }
    password::check(password.expose_secret(), &email)?;
    let org = administered.org();
    let role = request.role;
    let (id, action) = match state.appliance.user_by_email(&email).await? {
        Some(known) => {
            let caller = &administered.caller.user;
            let is_acquainted = caller.hub_admin
                || known
                    .roles
                    .keys()
                    .any(|other| caller.roles.get(other) == Some(&Role::Admin));
            if !is_acquainted || known.disabled || known.roles.contains_key(&org) {
                return Err(ApplianceError::EmailTaken.into());
            }
            // It is as good for guessing as a sign-in, and slowed like one.
            state
                .throttle
                .attempt(peer.ip(), &email, Instant::now())
                .map_err(|after| Refusal::too_many("attempts", after))?;
            if !state.hasher.verify(password, known.password_hash).await? {
                return Err(ApplianceError::EmailTaken.into());
            }
            state.throttle.forgive(peer.ip(), &email, Instant::now());
            let grant = move |user: &mut store::rows::access::User| {
                user.roles.entry(org).or_insert(role);
            };
            state.appliance.update_user(known.id, grant).await?;
            (known.id, "user.grant")
        }
        None => {
            let id = UserId::from_bytes(*uuid::Uuid::now_v7().as_bytes());
            let user = store::rows::access::User {
                id,
                email: email.clone(),
                password_hash: state.hasher.hash(password).await?,
                roles: BTreeMap::from([(org, role)]),
                hub_admin: false,
                created_at: Timestamp::now(),
                disabled: false,
            };
            state.appliance.create_user(user).await?;
            (id, "user.create")
        }
    };
    administered
        .audit(action, id.to_string(), format!("role {role}"))
        .await?;
    Ok((StatusCode::CREATED, Json(User { id, email, role })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_not_be_seen_as_it_is_is_refused() {
        assert_eq!(check_name("  Müller & Söhne  ").unwrap(), "Müller & Söhne");
        for bad in [
            "",
            "   ",
            "a\u{1b}[2Jb",
            "a\u{202e}b",
            "a\nb",
            &"x".repeat(101),
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_address_is_kept_in_lower_case_and_has_two_parts() {
        assert_eq!(
            check_email(" Mira@Example.ORG ").unwrap(),
            "mira@example.org"
        );
        for bad in [
            "",
            "mira",
            "@example.org",
            "mira@",
            "mi ra@example.org",
            "mi\u{202e}ra@x.org",
        ] {
            assert!(check_email(bad).is_err(), "{bad:?}");
        }
    }
}
