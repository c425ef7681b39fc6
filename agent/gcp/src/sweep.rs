//! One sync: the lists in their order, and from assets to documents.
//!
//! ```text
//! projects (RESOURCE) ─▶ their policies ─▶ a scope and a document for each project
//!        └─▶ buckets' policies ─▶ a scope for each project ─▶ buckets (RESOURCE), page by page
//! ```
//! Project ids are accounts, and buckets know only the number of theirs: without a whole list of
//! projects nothing can be told, and the parent's scopes fail. A project that disappears takes its
//! account with it; nothing here says so.

use std::collections::{BTreeMap, BTreeSet};

use collect::draft::incomplete;
use collect::http::Failure;
use collect::{CollectError, Draft, Fact, Fault, Output, Summary};
use jiff::Timestamp;
use protocol::declare::Kind;
use protocol::urn::Scope;
use serde_json::{Map, Value};

use crate::assets::{Asset, Assets, Content, Pages, fatal};
use crate::fit::fit;
use crate::policies::Policies;
use crate::{Parent, declared};

pub(crate) const PROJECT: &str = "gcp.cloudresourcemanager.project";
pub(crate) const BUCKET: &str = "gcp.storage.bucket";

/// Asset types of the two, as the assets themselves carry them.
const PROJECTS: &str = "cloudresourcemanager.googleapis.com/Project";
const BUCKETS: &str = "storage.googleapis.com/Bucket";

/// Most projects of one source.
const PROJECTS_MOST: usize = 100_000;

/// A project of the list.
struct Project {
    number: Option<String>,
    asset: Asset,
}

/// Projects by their id.
type Projects = BTreeMap<String, Project>;

/// One sync in progress.
pub(crate) struct Sweep<'a> {
    assets: &'a Assets,
    parent: &'a Parent,
    out: &'a Output,
    summary: Summary,
    /// The moment that every list is of, once the first has said it.
    moment: Option<Timestamp>,
    /// What was met that belongs to no project of the list, by type.
    strays: BTreeMap<&'static str, Fault>,
}

impl<'a> Sweep<'a> {
    pub(crate) fn new(assets: &'a Assets, parent: &'a Parent, out: &'a Output) -> Self {
        Self {
            assets,
            parent,
            out,
            summary: Summary::default(),
            moment: None,
            strays: BTreeMap::new(),
        }
    }

    pub(crate) fn into_summary(self) -> Summary {
        self.summary
    }

    /// Reads everything.
    ///
    /// # Errors
    ///
    /// When not even the first call could be made, or the agent is stopping.
    pub(crate) async fn run(&mut self) -> Result<(), CollectError> {
        let listed = match self.projects().await {
            Ok(projects) if projects.is_empty() => {
                // Whoever may list a project, a folder or an organisation sees one project at
                // least, or looks at the wrong place.
                Err(fault(Content::Resource, "no_project_listed"))
            }
            Ok(projects) => Ok(projects),
            Err(failure) => match fatal(&failure, self.assets.endpoint()) {
                Some(error) => return Err(error),
                None => Err(failure.fault),
            },
        };
        match listed {
            Ok(projects) => {
                self.project_documents(&projects).await?;
                self.buckets(&projects).await?;
                if let Parent::Project(_) = self.parent {
                    // The one that was asked for is known; others are only noted.
                    self.strays.clear();
                }
            }
            Err(fault) => {
                self.strays.entry(PROJECT).or_insert_with(|| fault.clone());
                self.strays.insert(BUCKET, fault);
            }
        }
        for (type_name, fault) in std::mem::take(&mut self.strays) {
            let scope = Scope::of_type(type_name, &self.parent.account(), "global");
            self.begin(&scope).await?;
            self.fail(scope, fault).await?;
        }
        Ok(())
    }

    /// Lists the projects.
    async fn projects(&mut self) -> Result<Projects, Failure> {
        let mut projects = Projects::new();
        let mut pages = Pages::new(self.assets, Content::Resource, PROJECTS, None);
        while let Some(page) = pages.next().await? {
            for asset in page {
                let number = project_number(&asset);
                let Some(id) = data(&asset, "projectId").and_then(text) else {
                    self.stray(PROJECT, "project_without_id");
                    continue;
                };
                if !self.parent.covers(&id, number.as_deref()) {
                    self.stray(PROJECT, "project_not_asked_for");
                    continue;
                }
                projects
                    .entry(id)
                    .or_insert_with(|| Project { number, asset });
                if projects.len() > PROJECTS_MOST {
                    return Err(Failure::unusable(Content::Resource.call(), "too_many"));
                }
            }
        }
        self.moment = pages.read_time();
        Ok(projects)
    }

    async fn project_documents(&mut self, projects: &Projects) -> Result<(), CollectError> {
        let policies = self.policies(PROJECTS).await;
        for (id, project) in projects {
            let scope = Scope::of_type(PROJECT, id, "global");
            self.begin(&scope).await?;
            let mut draft = Draft::new(declared(PROJECT), &scope, id, &project.asset.name);
            let mut more = Map::new();
            if let Some(number) = &project.number {
                more.insert("projectNumber".to_owned(), Value::from(number.as_str()));
            }
            let ancestors = project.asset.ancestors.clone();
            more.insert("ancestors".to_owned(), Value::from(ancestors));
            if let Some(name) = data(&project.asset, "name").and_then(text) {
                draft.name(name);
            }
            self.describe(&mut draft, PROJECT, &project.asset, more, &policies);
            self.send(draft).await?;
            self.end(scope).await?;
        }
        Ok(())
    }

    async fn buckets(&mut self, projects: &Projects) -> Result<(), CollectError> {
        let policies = self.policies(BUCKETS).await;
        let by_number = projects.iter().filter_map(|(id, project)| {
            let number = project.number.as_deref()?;
            Some((number, id.as_str()))
        });
        let mut open = Buckets {
            by_number: by_number.collect(),
            seen: BTreeMap::new(),
            broken: BTreeMap::new(),
        };
        for id in projects.keys() {
            self.begin(&Scope::of_type(BUCKET, id, "global")).await?;
        }
        let mut pages = Pages::new(self.assets, Content::Resource, BUCKETS, self.moment);
        let whole = loop {
            match pages.next().await {
                Ok(Some(page)) => self.bucket_page(page, &mut open, &policies).await?,
                Ok(None) => break None,
                Err(failure) => break Some(self.note(failure.fault)),
            }
        };
        // A bucket of an unknown project may be one of any: none of them is known whole.
        let whole = whole.or_else(|| open.broken.remove(""));
        for id in projects.keys() {
            let scope = Scope::of_type(BUCKET, id, "global");
            match whole.clone().or_else(|| open.broken.remove(id.as_str())) {
                Some(fault) => self.fail(scope, fault).await?,
                None => self.end(scope).await?,
            }
        }
        Ok(())
    }

    async fn bucket_page(
        &mut self,
        page: Vec<Asset>,
        open: &mut Buckets<'_>,
        policies: &Policies,
    ) -> Result<(), CollectError> {
        for asset in page {
            let Some(number) = project_number(&asset) else {
                let fault = self.note(fault(Content::Resource, "bucket_without_project"));
                open.broken.insert(String::new(), fault);
                continue;
            };
            let Some(project) = open.by_number.get(number.as_str()).copied() else {
                self.stray(BUCKET, "project_not_listed");
                continue;
            };
            let Some(name) = bucket_name(&asset) else {
                let fault = self.note(fault(Content::Resource, "bucket_without_name"));
                open.broken.insert(project.to_owned(), fault);
                continue;
            };
            let seen = open.seen.entry(project.to_owned()).or_default();
            if !seen.insert(name.clone()) {
                continue;
            }
            let scope = Scope::of_type(BUCKET, project, "global");
            let mut draft = Draft::new(declared(BUCKET), &scope, &name, &asset.name);
            draft.name(name);
            draft.link("in_project", "global", project);
            let mut more = Map::new();
            more.insert("projectNumber".to_owned(), Value::from(number));
            self.describe(&mut draft, BUCKET, &asset, more, policies);
            self.send(draft).await?;
        }
        Ok(())
    }

    /// Lists the policies of one type. A list that fails or breaks off is noted; what it said so
    /// far is kept.
    async fn policies(&mut self, asset_type: &'static str) -> Policies {
        let mut policies = Policies::default();
        let content = Content::IamPolicy;
        let mut pages = Pages::new(self.assets, content, asset_type, self.moment);
        loop {
            match pages.next().await {
                Ok(Some(page)) => {
                    for asset in page {
                        policies.keep(asset.name, asset.iam_policy);
                    }
                }
                Ok(None) => return policies,
                Err(failure) => {
                    policies.break_off(self.note(failure.fault));
                    return policies;
                }
            }
        }
    }

    /// Fills a draft with what the lists say of an asset; `more` are fields that stand beside its
    /// data.
    fn describe(
        &mut self,
        draft: &mut Draft,
        type_name: &str,
        asset: &Asset,
        more: Map<String, Value>,
        policies: &Policies,
    ) {
        let fields = &declared(type_name).fields;
        let call = Content::Resource.call();
        let data = asset.resource.as_ref().and_then(|found| found.data.clone());
        let answer = data.ok_or("no_data").map(|mut data| {
            data.extend(more);
            let fitted = data.into_iter().map(|(name, value)| {
                let value = match fields.get(&name) {
                    Some(field) => fit(&field.kind, value),
                    None => value,
                };
                (name, value)
            });
            fitted.collect::<Map<String, Value>>()
        });
        match answer {
            Ok(mut data) => {
                match labels(data.remove("labels")) {
                    Some(labels) => draft.tags(labels),
                    None => draft.tags_failed(fault(Content::Resource, "unreadable")),
                };
                draft.answered(call, Value::Object(data));
            }
            Err(code) => {
                let fault = self.note(fault(Content::Resource, code));
                draft.failed(&fault);
                draft.tags_failed(fault);
            }
        }
        let call = Content::IamPolicy.call();
        let policy = policies.of(&asset.name).map(|policy| {
            let policy = ("iamPolicy".to_owned(), policy.unwrap_or(Value::Null));
            Value::Object(Map::from_iter([policy]))
        });
        draft.outcome(call, policy);
    }

    /// Records what belongs to no project of the list.
    fn stray(&mut self, type_name: &'static str, code: &str) {
        let fault = self.note(fault(Content::Resource, code));
        self.strays.entry(type_name).or_insert(fault);
    }

    /// Notes a fault for the summary, each once.
    fn note(&mut self, fault: Fault) -> Fault {
        if !self.summary.faults.contains(&fault) {
            self.summary.faults.push(fault.clone());
        }
        fault
    }

    async fn begin(&self, scope: &Scope) -> Result<(), CollectError> {
        let scope = scope.clone();
        self.out.send(Fact::Began { scope }).await
    }

    async fn send(&mut self, draft: Draft) -> Result<(), CollectError> {
        let document = Box::new(draft.finish(Timestamp::now()));
        for fault in incomplete(&document) {
            self.note(fault);
        }
        self.out.send(Fact::Document(document)).await?;
        self.summary.documents += 1;
        Ok(())
    }

    async fn end(&mut self, scope: Scope) -> Result<(), CollectError> {
        self.out.send(Fact::Ended { scope }).await?;
        self.summary.scopes_ended += 1;
        Ok(())
    }

    async fn fail(&mut self, scope: Scope, fault: Fault) -> Result<(), CollectError> {
        let gap = self.note(fault).into();
        self.out.send(Fact::Failed { scope, gap }).await
    }
}

/// The buckets' scopes while their list comes.
struct Buckets<'p> {
    /// Project ids by their number.
    by_number: BTreeMap<&'p str, &'p str>,
    /// Names that were sent, by project: an asset may stand on two pages.
    seen: BTreeMap<String, BTreeSet<String>>,
    /// What spoils a project's scope, by project; under the empty id what spoils all.
    broken: BTreeMap<String, Fault>,
}

fn fault(content: Content, code: &str) -> Fault {
    Fault {
        call: content.call().to_owned(),
        code: code.to_owned(),
    }
}

fn data<'a>(asset: &'a Asset, name: &str) -> Option<&'a Value> {
    asset.resource.as_ref()?.data.as_ref()?.get(name)
}

/// Returns a text that is not empty; a whole number as text.
fn text(value: &Value) -> Option<String> {
    let fitted = fit(&Kind::String, value.clone());
    let text = fitted.as_str().filter(|text| !text.is_empty())?;
    Some(text.to_owned())
}

/// Returns the number of an asset's project: as its data has it, else from the names around it.
fn project_number(asset: &Asset) -> Option<String> {
    let number = |name: &str| {
        let (_, number) = name.rsplit_once("projects/")?;
        let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| number.to_owned())
    };
    let resource = asset.resource.as_ref();
    let parent = resource.and_then(|resource| resource.parent.as_deref());
    let nearest = asset.ancestors.as_ref().and_then(|names| names.first());
    data(asset, "projectNumber")
        .and_then(text)
        .or_else(|| nearest.and_then(|name| number(name)))
        .or_else(|| number(&asset.name))
        .or_else(|| parent.and_then(number))
}

/// Returns a bucket's name: as its data has it, else the last part of the asset's name.
fn bucket_name(asset: &Asset) -> Option<String> {
    let of_asset = || asset.name.strip_prefix("//storage.googleapis.com/");
    data(asset, "name")
        .and_then(text)
        .or_else(|| of_asset().map(str::to_owned))
        .filter(|name| !name.is_empty())
}

/// Returns labels; an empty map where there are none, `None` where they are something else.
fn labels(labels: Option<Value>) -> Option<BTreeMap<String, String>> {
    match labels {
        None | Some(Value::Null) => Some(BTreeMap::new()),
        Some(labels) => serde_json::from_value(labels).ok(),
    }
}
