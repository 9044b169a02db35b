//! The metrics page: the metrics of requests, of published versions and of the control plane.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Service;
use crate::metrics::page::{self, Family, Format};
use crate::serving::map::{Model, ServingMap, State, Version};
use servable_model::error::{Code, Result};

impl Service {
    /// The text of the metrics page. Blocks during the call of the control plane.
    ///
    /// # Errors
    ///
    /// What the control plane reports.
    pub fn metrics_page(&self, format: Format) -> Result<String> {
        self.families().map(|families| page::text(families, format))
    }

    /// The integer of the first point of each of these metrics, or 0 if there is none.
    pub(crate) fn first_integers<'a>(&self, names: &'a BTreeSet<String>) -> Result<BTreeMap<&'a str, u64>> {
        let families = if names.is_empty() { Vec::new() } else { self.families()? };
        let value = |name: &str| families.iter().find(|family| family.name == name).map_or(0, Family::first_integer);
        Ok(names.iter().map(|name| (name.as_str(), value(name))).collect())
    }

    fn families(&self) -> Result<Vec<Family>> {
        let mut families = self.metrics.families();
        families.extend(published(&self.serving_map));
        families.extend(shadows(&self.serving_map));
        families.extend(self.control_plane.scrape()?);
        Ok(families)
    }
}

/// The metrics of the versions in the map.
fn published(map: &ServingMap) -> [Family; 3] {
    let mut versions = Family::gauge("servable_versions", &["model_name", "state"])
        .with_help("Versions of a model by state. FAILED counts versions that ended with an error.");
    let labels = ["model_name", "version"];
    let mut in_flight =
        Family::gauge("servable_requests_in_flight", &labels).with_help("Requests in flight, by version.");
    let labels = ["model_name", "version", "status"];
    let mut requests = Family::counter("servable_version_requests_total", &labels)
        .with_help("Requests that were routed to a version, by status. Removed when the version is unloaded.");
    for (name, model) in map.models() {
        let name = String::from_utf8_lossy(&name);
        for (state, count) in states(&model) {
            versions.add(&[&name, state], count);
        }
        for version in model.versions() {
            let Some(handle) = &version.published else { continue };
            let number = version.number.to_string();
            // The map owns one reference, and each request in flight another.
            in_flight.add(&[&name, &number], Arc::strong_count(handle).saturating_sub(1) as u64);
            for (code, count) in handle.metrics().counts() {
                requests.add(&[&name, &number, code.name()], count);
            }
        }
    }
    [versions, in_flight, requests]
}

/// The number of versions in each state. `AVAILABLE` is always included.
fn states(model: &Model) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::from([(State::Available.name(), 0)]);
    for Version { state, error_code, .. } in model.versions() {
        let has_failed = *state == State::End && *error_code != Code::Ok;
        *counts.entry(if has_failed { "FAILED" } else { state.name() }).or_default() += 1;
    }
    counts
}

fn shadows(map: &ServingMap) -> [Family; 1] {
    let mut copies = Family::counter("servable_shadow_requests_total", &["model_name", "version", "outcome"])
        .with_help("Copies of requests for a shadow version, by outcome.");
    for (name, statistics) in map.shadow_statistics() {
        let (name, version) = (String::from_utf8_lossy(&name), statistics.version.to_string());
        for (outcome, count) in [
            ("matched", statistics.matched),
            ("differed", statistics.differed),
            ("failed", statistics.failed),
            ("dropped", statistics.dropped),
            ("unavailable", statistics.unavailable),
        ] {
            copies.add(&[&name, &version, outcome], count);
        }
    }
    [copies]
}
