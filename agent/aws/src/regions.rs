//! Which regions an account uses.

use collect::Fault;
use serde_json::{Value, json};

use crate::clients::Clients;
use crate::fault::fault;
use crate::value::{items, only};

/// The call that lists regions.
pub(crate) const CALL: &str = "ec2:DescribeRegions";

/// Regions of each partition, for an account whose region list cannot be read. A region that is
/// missing here is then not swept, which the failed call in the summary says.
///
/// Source: botocore 1.44.5, `endpoints.json`, which lists exactly these, read 2026-11.
const KNOWN: &[(&str, &str)] = &[
    (
        "aws",
        "us-east-1 us-east-2 us-west-1 us-west-2 ca-central-1 ca-west-1 mx-central-1 sa-east-1 \
         eu-central-1 eu-central-2 eu-north-1 eu-south-1 eu-south-2 eu-west-1 eu-west-2 eu-west-3 \
         af-south-1 il-central-1 me-central-1 me-south-1 ap-east-1 ap-east-2 ap-northeast-1 \
         ap-northeast-2 ap-northeast-3 ap-south-1 ap-south-2 ap-southeast-1 ap-southeast-2 \
         ap-southeast-3 ap-southeast-4 ap-southeast-5 ap-southeast-6 ap-southeast-7",
    ),
    ("aws-cn", "cn-north-1 cn-northwest-1"),
    ("aws-us-gov", "us-gov-east-1 us-gov-west-1"),
];

/// The regions of a partition and whether the account uses them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Regions {
    listed: Vec<(String, Option<String>)>,
}

impl Regions {
    /// Asks EC2 in the home region.
    pub(crate) async fn read(clients: &Clients) -> Result<Self, Fault> {
        let client = clients.ec2(clients.home());
        let answer = client.describe_regions().all_regions(true).send().await;
        let answer = answer.map_err(|error| fault(CALL, &error))?;
        let listed = answer.regions.unwrap_or_default().into_iter();
        let listed = listed.filter_map(|region| Some((region.region_name?, region.opt_in_status)));
        Ok(Self {
            listed: listed.collect(),
        })
    }

    /// Returns the names of the enabled regions.
    pub(crate) fn enabled(&self) -> impl Iterator<Item = &str> {
        self.listed
            .iter()
            .filter(|(_, status)| status.as_deref() != Some("not-opted-in"))
            .map(|(name, _)| name.as_str())
    }

    /// Returns the declared field of the account.
    pub(crate) fn field(&self) -> Value {
        let region = |(name, status): &(String, Option<String>)| json!({"RegionName": name, "OptInStatus": status});
        only("Regions", items(&self.listed, region))
    }
}

/// Returns the regions to sweep: the configured ones, else the enabled ones. Where those cannot
/// be read, every known region of the partition is tried: what can be read there is as true as
/// ever, and a region that is not enabled refuses its lists, which leaves its scopes failed.
pub(crate) fn to_sweep(
    configured: Option<&[String]>,
    read: &Result<Regions, Fault>,
    partition: &str,
) -> Vec<String> {
    if let Some(configured) = configured {
        return configured.to_vec();
    }
    match read {
        Ok(regions) => regions.enabled().map(str::to_owned).collect(),
        Err(_) => {
            let known = KNOWN.iter().find(|(name, _)| *name == partition);
            let names = known.map_or("", |(_, names)| names);
            names.split_whitespace().map(str::to_owned).collect()
        }
    }
}
