//! `init`: makes the master key, the store, the hub's own keys, the first organisation and its
//! admin.
//!
//! Every step can be run again, and the note of the founding is the last: an `init` that was cut
//! off is finished by the next, and one that was not changes nothing.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use jiff::Timestamp;
use protocol::ids::{OrgId, UserId};
use secrecy::SecretString;
use serde_json::json;
use store::error::{ApplianceError, MasterKeyError};
use store::rows::Role;
use store::rows::access::User;
use store::rows::audit::AuditAct;
use store::rows::finding::Actor;
use store::{Appliance, MasterKey, Store};
use zeroize::Zeroizing;

use super::Init;
use super::output::{self, Format};
use crate::config::{self, Config};
use crate::failure::{Exit, Explain as _, Failure};
use crate::identity::{self, Founded, Identity};
use crate::opening;
use crate::password::{self, Hasher};

/// Longest password that is read, in bytes, with its line end.
const PASSWORD_BYTES: usize = 4096;

/// Makes what is not there yet, and prints what there is.
///
/// # Errors
/// When something cannot be made, or the data belongs to another key.
pub(super) async fn run(config: &Config, args: &Init, format: Format) -> Result<Exit, Failure> {
    let org_name = check_org_name(&args.org)?;
    let email = check_email(&args.admin_email)?;
    let mut hosts = Vec::new();
    for host in &args.public_hosts {
        hosts.extend(config::check_hosts(host).map_err(|reason| {
            Failure::new(Exit::Usage, format!("--public-host {host:?}: {reason}"))
        })?);
    }
    let key_file = config.master_key_file()?.to_owned();
    let data_dir = config.data_dir.clone();
    let exists = Store::exists(&data_dir);
    // Before anything is made: a bad password must not leave half a hub behind.
    let password = peek_password(&email, exists, args.admin_password_stdin)?;
    let opened = config.clone();
    let store = tokio::task::spawn_blocking(move || {
        if exists {
            opening::open(&opened)
        } else {
            create(&key_file, &data_dir)
        }
    })
    .await
    .map_err(|error| Failure::new(Exit::Failed, "cannot make the store").caused_by(&error))??;
    let made = establish(&store, org_name, &email, password, &hosts).await;
    store.close().await;
    let (founded, pin, known) = made?;
    if let Some(known) = known {
        output::note("already initialised; nothing was changed");
        let is_new = |host: &&String| !known.contains(host) && !config.public_hosts.contains(host);
        if let Some(host) = hosts.iter().find(is_new) {
            output::note(&format!(
                "--public-host {host} was not taken: to give an initialised hub another name or \
                 address, add it to `public_hosts` in hub.toml and start the hub again"
            ));
        }
    }
    let object = json!({
        "org_id": founded.org,
        "ca_pin": pin,
        "admin_user_id": founded.admin,
    });
    let lines = [
        ("org_id", founded.org.to_string()),
        ("ca_pin", pin),
        ("admin_user_id", founded.admin.to_string()),
    ];
    output::print_object(format, &object, &lines)?;
    Ok(Exit::Ok)
}

/// Makes the key and an empty store. A key that is there is taken: an `init` that was cut off
/// between the two made it, or the operator did.
fn create(key_file: &Path, data_dir: &Path) -> Result<Store, Failure> {
    let master = match key_file.symlink_metadata() {
        Ok(_) => MasterKey::load(key_file, data_dir)?,
        Err(_) => match MasterKey::create(key_file, data_dir) {
            Ok(master) => master,
            // The data directory may be missing too; where the key must not lie comes first.
            Err(error @ MasterKeyError::InsideData { .. }) => return Err(error.into()),
            Err(error) => {
                check_folder(key_file)?;
                return Err(error.into());
            }
        },
    };
    Ok(Store::create(opening::store_config(data_dir), master)?)
}

/// Refuses a key file whose folder is not there. It is not made here: who may read it is for the
/// operator to say.
fn check_folder(key_file: &Path) -> Result<(), Failure> {
    let folder = key_file
        .parent()
        .filter(|path| !path.as_os_str().is_empty());
    match folder {
        Some(folder) if matches!(folder.try_exists(), Ok(false)) => {
            let folder = folder.display();
            let what = format!("the folder {folder} for the master key does not exist");
            Err(Failure::new(Exit::Config, what).with_fix(format!(
                "make it for the hub's user alone, `install -d -m 0700 {folder}`, or name another \
                 file with --master-key-file"
            )))
        }
        Some(_) | None => Ok(()),
    }
}

/// Makes what is missing; returns the public hosts of the hub that was there, if one was.
async fn establish(
    store: &Store,
    org_name: &str,
    email: &str,
    password: Option<SecretString>,
    hosts: &[String],
) -> Result<(Founded, String, Option<Vec<String>>), Failure> {
    let appliance = store.appliance();
    if let Some(founded) = identity::founded(&appliance).await? {
        let identity = Identity::load(&appliance).await?;
        let pin = identity.authority.pin().to_string();
        return Ok((founded, pin, Some(identity.public_hosts)));
    }
    let password = password.ok_or_else(no_password)?;
    let now = Timestamp::now();
    identity::establish(&appliance, hosts, now).await?;
    let org = first_org(&appliance, org_name, now).await?;
    let admin = first_admin(&appliance, org, email, password, now).await?;
    let founded = Founded { org, admin };
    audit(store, founded, now).await?;
    identity::found(&appliance, founded).await?;
    let pin = Identity::load(&appliance).await?.authority.pin();
    Ok((founded, pin.to_string(), None))
}

/// Records the founding as the first entries of the organisation's audit log.
async fn audit(store: &Store, founded: Founded, now: Timestamp) -> Result<(), Failure> {
    let Some(org) = store.maintenance(founded.org).await.map_err(|error| {
        Failure::new(error.exit(), "cannot open the organisation's store").caused_by(&*error)
    })?
    else {
        return Ok(());
    };
    let act = |action: &str, object: String, detail: &str| AuditAct {
        at: now,
        actor: Actor::Local,
        action: action.to_owned(),
        object,
        detail: detail.to_owned(),
    };
    let mut write = org.write();
    write.audit(act("org.create", founded.org.to_string(), "by init"));
    write.audit(act(
        "user.create",
        founded.admin.to_string(),
        "by init, as admin of the organisation and of the hub",
    ));
    write.commit().await.map_err(|error| {
        Failure::new(Exit::Failed, "cannot write to the audit log").caused_by(&error)
    })?;
    Ok(())
}

fn appliance_failed(error: ApplianceError) -> Failure {
    Failure::new(Exit::Failed, "cannot write to the store").caused_by(&error)
}

/// Returns the organisation of that name, made by an `init` that was cut off, or a new one.
async fn first_org(appliance: &Appliance, name: &str, now: Timestamp) -> Result<OrgId, Failure> {
    match appliance.create_org(name, now).await {
        Ok(org) => Ok(org.id),
        Err(ApplianceError::NameTaken) => {
            let orgs = appliance.orgs().await?;
            let known = orgs
                .iter()
                .find(|org| org.name.to_lowercase() == name.to_lowercase());
            known
                .map(|org| org.id)
                .ok_or_else(|| appliance_failed(ApplianceError::NameTaken))
        }
        Err(error) => Err(appliance_failed(error)),
    }
}

/// Returns the admin, made by an `init` that was cut off, or a new one. Either way the password is
/// the one that was given now: that of the first run was never told to have worked.
async fn first_admin(
    appliance: &Appliance,
    org: OrgId,
    email: &str,
    password: SecretString,
    now: Timestamp,
) -> Result<UserId, Failure> {
    let password_hash = Hasher::default().hash(password).await?;
    if let Some(known) = appliance.user_by_email(email).await? {
        let changed = appliance.update_user(known.id, move |user| {
            user.password_hash.clone_from(&password_hash);
            user.roles.insert(org, Role::Admin);
            user.hub_admin = true;
        });
        return Ok(changed.await.map_err(appliance_failed)?.id);
    }
    let id = UserId::from_bytes(*uuid::Uuid::now_v7().as_bytes());
    let user = User {
        id,
        email: email.to_owned(),
        password_hash,
        roles: [(org, Role::Admin)].into(),
        hub_admin: true,
        created_at: now,
        disabled: false,
    };
    appliance
        .create_user(user)
        .await
        .map_err(appliance_failed)?;
    Ok(id)
}

fn no_password() -> Failure {
    Failure::new(Exit::Usage, "no password was given")
        .with_fix("give the password on standard input")
}

/// Asks a terminal for the password twice, which it does not show; reads standard input elsewhere.
fn read_password(on_stdin: bool) -> Result<Zeroizing<String>, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new(Exit::Usage, "could not read the password").caused_by(&error)
    };
    if std::io::stdin().is_terminal() {
        let ask = |prompt| rpassword::prompt_password(prompt).map(Zeroizing::new);
        let password = ask("Password of the first admin: ").map_err(unreadable)?;
        if ask("Once more: ").map_err(unreadable)? != password {
            return Err(Failure::new(Exit::Usage, "the two passwords differ"));
        }
        return Ok(password);
    }
    if !on_stdin {
        return Err(
            Failure::new(Exit::Usage, "there is no terminal to ask for the password")
                .with_fix("pipe it in and say --admin-password-stdin"),
        );
    }
    let mut text = Zeroizing::new(String::new());
    // The buffer has its size from the start, so that no copy is left behind by growing.
    text.reserve_exact(PASSWORD_BYTES + 1);
    std::io::stdin()
        .lock()
        .take(PASSWORD_BYTES as u64)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    Ok(text)
}

/// Reads the password and checks it. Where the store exists, none may be needed, so nothing that
/// is read is an error yet, and nobody is asked.
fn peek_password(
    email: &str,
    exists: bool,
    on_stdin: bool,
) -> Result<Option<SecretString>, Failure> {
    if exists && !on_stdin {
        return Ok(None);
    }
    let mut text = read_password(on_stdin)?;
    password::strip(&mut text);
    match password::check(&text, email) {
        Ok(()) => Ok(Some(SecretString::from(text.as_str()))),
        Err(_) if exists => Ok(None),
        Err(_) if text.is_empty() => Err(no_password()),
        Err(error) => Err(error.into()),
    }
}

/// Checks the name of an organisation.
fn check_org_name(name: &str) -> Result<&str, Failure> {
    let chars = name.chars().count();
    let is_good =
        (1..=100).contains(&chars) && name.trim() == name && !name.chars().any(char::is_control);
    if is_good {
        return Ok(name);
    }
    Err(Failure::new(
        Exit::Usage,
        format!(
            "--org {name:?}: a name has 1 to 100 characters, no control characters, no space at \
             its ends"
        ),
    ))
}

/// Checks an e-mail address as far as it must be to tell two apart, and lower-cases it. Whether
/// it takes mail is nobody's business here.
fn check_email(email: &str) -> Result<String, Failure> {
    let is_good = email.len() <= 254
        && email.is_ascii()
        && email.bytes().all(|byte| byte.is_ascii_graphic())
        && email.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty() && domain.contains('.') && !domain.contains('@')
        });
    if is_good {
        return Ok(email.to_ascii_lowercase());
    }
    Err(Failure::new(
        Exit::Usage,
        format!("--admin-email {email:?} is not an e-mail address"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_folder_of_the_key_is_named_and_no_copy_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("keys");
        let refused = create(&missing.join("master.key"), &folder.path().join("data"));
        let failure = refused.err().unwrap();
        assert_eq!(failure.exit(), Exit::Config);
        let lines = failure.lines();
        let wanted = format!("the folder {} for the master key", missing.display());
        assert!(
            lines.contains(&wanted) && lines.contains("install -d"),
            "{lines}"
        );
        assert!(!lines.contains("copy"), "{lines}");
        assert!(!folder.path().join("data").exists());
        assert!(check_folder(&folder.path().join("master.key")).is_ok());
        assert!(check_folder(Path::new("master.key")).is_ok());
    }

    #[test]
    fn names_and_addresses_that_cannot_be_told_apart_are_refused() {
        for name in ["Acme", "Ä & Co. KG", "x"] {
            assert!(check_org_name(name).is_ok(), "{name}");
        }
        for name in [
            "",
            " Acme",
            "Acme ",
            "Ac\u{7}me",
            "Ac\nme",
            &"x".repeat(101),
        ] {
            let failure = check_org_name(name).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage, "{name:?}");
        }
        assert_eq!(check_email("Ann@Example.com").unwrap(), "ann@example.com");
        for email in [
            "ann",
            "ann@",
            "@example.com",
            "a@b",
            "a b@example.com",
            "a@b@c.de",
            "\u{e4}@b.de",
        ] {
            let failure = check_email(email).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage, "{email:?}");
        }
    }
}
