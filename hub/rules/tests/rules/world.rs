//! A small yard of boxes and sheds: types, documents and checks for the tests.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use jiff::Timestamp;
use protocol::declare::Declarations;
use protocol::document::Gap;
use protocol::{Document, Scope};
use rules::{Alone, Check, Neighbours, Outcome, Relation, Subject};
use serde_json::{Value, json};

const YARD: &str = "
provider: lab
service: yard
types:
  lab.yard.box:
    summary: A box.
    source: https://example.org
    scope: region
    call: yard:DescribeBoxes
    fields:
      Id: {type: string, required: true, meaning: Id.}
      On: {type: bool, required: true, meaning: Never null.}
      Flag: {type: bool, meaning: May be null.}
      Count: {type: int, meaning: May be null.}
      Size: {type: int, required: true, meaning: Never null.}
      Ratio: {type: double, meaning: May be null.}
      Name: {type: string, meaning: May be null.}
      Kind: {type: string, required: true, meaning: Never null.}
      MadeAt: {type: timestamp, required: true, meaning: Never null.}
      UsedAt: {type: timestamp, meaning: May be null.}
      UserData: {type: secret, required: true, call: 'yard:GetBoxData', meaning: Examined.}
      Policy: {type: policy, call: 'yard:GetBoxPolicy', meaning: Who may open it.}
      Free: {type: json, meaning: Anything.}
      Labels: {type: map, meaning: A true map.}
      Words: {type: list<string>, meaning: May be null.}
      Ports: {type: list<int>, required: true, meaning: Never null.}
      Lid:
        type: record
        meaning: May be null.
        of:
          Locked: {type: bool, required: true}
          Colour: {type: string}
      Rules:
        type: list
        required: true
        meaning: Never null.
        of:
          From: {type: int}
          To: {type: int}
          Proto: {type: string, required: true}
          Open: {type: bool, required: true}
          Cidr: {type: string}
          Ranges:
            type: list
            of:
              Cidr: {type: string}
      Holes:
        type: list
        meaning: May be null.
        of:
          Deep: {type: bool}
    links:
      in_shed: {to: lab.yard.shed, meaning: Where it stands.}
      beside: {to: lab.yard.box, meaning: What stands beside it.}
  lab.yard.shed:
    summary: A shed.
    source: https://example.org
    scope: region
    call: yard:DescribeSheds
    fields:
      Id: {type: string, required: true, meaning: Id.}
      Dry: {type: bool, required: true, meaning: Never null.}
      Doors:
        type: list
        required: true
        meaning: Doors.
        of:
          Open: {type: bool, required: true}
  lab.yard.cart:
    summary: A cart.
    source: https://example.org
    scope: region
    call: yard:DescribeCarts
    fields:
      Id: {type: string, required: true, meaning: Id.}
    links:
      in_shed: {to: lab.yard.shed, meaning: Where it stands.}
";

const ACCOUNT: &str = "
provider: lab
service: account
types:
  lab.account:
    summary: The yard's owner.
    source: https://example.org
    scope: global
    call: account:GetOwner
    fields:
      Mfa: {type: bool, required: true, meaning: Never null.}
      Zone: {type: string, meaning: May be null.}
";

pub(crate) const NOW: &str = "2026-06-01T00:00:00Z";

pub(crate) fn types() -> &'static Declarations {
    static TYPES: OnceLock<Declarations> = OnceLock::new();
    TYPES.get_or_init(|| {
        Declarations::parse([("yard.yaml", YARD), ("account.yaml", ACCOUNT)]).unwrap()
    })
}

/// The text of a check on a type; `pass` may bring further lines.
pub(crate) fn file_of(type_name: &str, pass: &str, more: &str) -> String {
    let pass = Value::from(pass);
    format!(
        "id: lab.yard.probe\ntitle: The probe\nseverity: low\ntype: {type_name}\npass: {pass}\n\
         {more}why: To see.\nfix: {{cli: none}}\nsource: https://example.org\ntests: []\n"
    )
}

pub(crate) fn check_of(type_name: &str, pass: &str, more: &str) -> Check {
    let text = file_of(type_name, pass, more);
    Check::read("probe.yaml", &text, types())
        .unwrap_or_else(|errors| panic!("{pass}: {}", errors[0]))
}

/// Why an expression on boxes is refused.
pub(crate) fn refusal(pass: &str) -> String {
    match Check::read("probe.yaml", &file_of("lab.yard.box", pass, ""), types()) {
        Ok(_) => panic!("{pass} was accepted"),
        Err(errors) => errors[0].to_string(),
    }
}

pub(crate) fn document(type_name: &str, id: &str, config: Value) -> Document {
    let urn = Scope::of_type(type_name, "111122223333", "north").urn(id);
    Document {
        type_name: type_name.to_owned(),
        provider: "lab".into(),
        account: "111122223333".into(),
        region: "north".into(),
        id: id.to_owned(),
        native_id: urn.to_string(),
        name: id.to_owned(),
        tags: Some(BTreeMap::from([("env".to_owned(), "prod".to_owned())])),
        config,
        gaps: BTreeMap::new(),
        links: Vec::new(),
        collected_at: NOW.parse().unwrap(),
        urn,
    }
}

/// A box of which everything was read; what may be null is.
pub(crate) fn whole_box() -> Value {
    json!({
        "Id": "b", "On": true, "Flag": null, "Count": null, "Size": 3, "Ratio": null,
        "Name": null, "Kind": "crate", "MadeAt": "2026-01-01T00:00:00Z", "UsedAt": null,
        "UserData": [], "Policy": null, "Free": null, "Labels": null, "Words": null,
        "Ports": [22, 80], "Lid": null, "Holes": null,
        "Rules": [
            {"From": 20, "To": 25, "Proto": "tcp", "Open": true, "Cidr": null,
             "Ranges": [{"Cidr": "10.0.0.0/8"}]},
            {"From": null, "To": null, "Proto": "udp", "Open": false, "Cidr": null,
             "Ranges": null},
        ],
    })
}

/// A box with some fields changed.
pub(crate) fn a_box(changes: Value) -> Document {
    let mut config = whole_box();
    for (name, value) in changes.as_object().unwrap() {
        config[name] = value.clone();
    }
    document("lab.yard.box", "b", config)
}

/// A box of which some fields were not read.
pub(crate) fn without(fields: &[&str]) -> Document {
    let mut found = a_box(json!({}));
    for field in fields {
        found.config.as_object_mut().unwrap().remove(*field);
        let call = match *field {
            "Policy" => "yard:GetBoxPolicy",
            _ => "yard:DescribeBoxes",
        };
        found.gaps.insert(format!("config.{field}"), denied(call));
    }
    found
}

pub(crate) fn denied(call: &str) -> Gap {
    Gap {
        call: call.to_owned(),
        error: "AccessDenied".to_owned(),
    }
}

pub(crate) fn a_shed(id: &str, dry: bool) -> Document {
    document(
        "lab.yard.shed",
        id,
        json!({"Id": id, "Dry": dry, "Doors": []}),
    )
}

/// What stands around a document.
#[derive(Default)]
pub(crate) struct Around {
    pub(crate) linked: BTreeMap<&'static str, Vec<Document>>,
    pub(crate) linked_from: BTreeMap<&'static str, Vec<Document>>,
    /// Relations that are not wholly known.
    pub(crate) partial: Vec<&'static str>,
    pub(crate) account: Option<Document>,
}

impl Around {
    fn ends<'a>(
        &'a self,
        of: &'a BTreeMap<&'static str, Vec<Document>>,
        rel: &str,
    ) -> Relation<'a> {
        Relation {
            documents: of.get(rel).into_iter().flatten().collect(),
            complete: if self.partial.contains(&rel) {
                Err(denied("yard:DescribeSheds"))
            } else {
                Ok(())
            },
        }
    }

    pub(crate) fn judge(&self, check: &Check, document: &Document) -> Outcome {
        let subject = Subject {
            document,
            account: self.account.as_ref(),
            neighbours: self,
            now: NOW.parse().unwrap(),
        };
        let outcome = check.evaluate(&subject);
        assert_eq!(
            check.verdict(&subject),
            outcome.verdict,
            "{}",
            check.pass_text()
        );
        outcome
    }
}

impl Neighbours for Around {
    fn linked(&self, rel: &str) -> Relation<'_> {
        self.ends(&self.linked, rel)
    }
    fn linked_from(&self, rel: &str) -> Relation<'_> {
        self.ends(&self.linked_from, rel)
    }
}

/// Judges a box that stands alone at an instant.
pub(crate) fn judge_at(check: &Check, document: &Document, now: Timestamp) -> Outcome {
    check.evaluate(&Subject {
        document,
        account: None,
        neighbours: &Alone,
        now,
    })
}
