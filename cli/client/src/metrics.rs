//! What a daemon counts, from the `OpenMetrics` text of `GET /metrics`.

use std::collections::BTreeMap;

use super::{Client, ClientError, IDENTITY_TIMEOUT, accepted};

/// The metrics of a daemon at one moment, by name with unit and `_total`, without labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(BTreeMap<String, u64>);

impl Metrics {
    /// Comments and numbers that are not whole are left out.
    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// The value of a counter or gauge, `mutualstore_` left out of its name.
    pub fn get(&self, name: &str) -> Result<u64, ClientError> {
        let value = self.0.get(&format!("mutualstore_{name}")).copied();
        value.ok_or_else(|| ClientError::Unexpected {
            what: format!("the daemon has no metric mutualstore_{name}"),
        })
    }
}

impl Client {
    /// What the daemon counted since it started.
    pub fn metrics(&self) -> Result<Metrics, ClientError> {
        let request = self
            .agent
            .get(format!("{}/metrics", self.base))
            .header("Authorization", &self.bearer);
        let request = request.config().timeout_global(Some(IDENTITY_TIMEOUT)).build();
        let mut response = accepted(request.call().map_err(|error| self.broken(&error))?)?;
        let text = response.body_mut().read_to_string();
        Ok(Metrics::parse(&text.map_err(|error| self.broken(&error))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_found_by_name() {
        let text = "# HELP mutualstore_gets Files read.\nmutualstore_gets_total 12\n\
                    mutualstore_cpu_seconds_total 0.5\n# EOF\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.get("gets_total").unwrap(), 12);
        assert!(metrics.get("cpu_seconds_total").is_err());
        assert!(metrics.get("gets").is_err());
    }
}
