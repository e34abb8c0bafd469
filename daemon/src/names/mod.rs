//! The names of this peer's account: buckets, and what their keys are.
//!
//! * [`batch`]: many changes at once.
//! * [`disk`]: what of it is on disk.
//! * [`exchange`]: records of one key, to their holders and from them.
//! * [`left`]: what a data directory knows of buckets.
//! * [`open`]: one bucket, open: what is known of it, and what this device says of it.
//! * [`state`]: what of it is in memory.
//! * [`runs`]: entries that a head has no room for, as files.
//! * [`purge`]: runs that others replaced go.
//! * [`staged`]: files that are stored and have no name yet, also those that a crash left.
//!
//! The account's home bucket names the others: its setting `bucket/NAME` is the secret that the bucket is
//! written with. The first of a name follows from home and name, so two devices that make it at once, apart,
//! make the same.

mod batch;
mod disk;
mod exchange;
mod left;
mod open;
mod purge;
mod runs;
mod staged;
mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mutualstore_contract::reply::Deleted;
use mutualstore_erasure::Code;
use mutualstore_tree::account::{Account, WriteKey};
use mutualstore_tree::codec::Fields;
use mutualstore_tree::entry::{Entry, Name, Space, What};
use mutualstore_tree::merge::Versions;
use mutualstore_tree::version::Version;

pub(crate) use self::batch::{fields_of, file_of, nanoseconds};
pub use self::left::{Left, left, listed_in};
pub(crate) use self::open::OpenBucket;
pub(crate) use self::runs::{link, pointer};
use self::staged::Staged;
pub(crate) use self::staged::recover;
pub(crate) use self::state::{Change, Condition, DeviceOf};
use crate::error::Failure;
use crate::format::link::Link;
use crate::format::names::base_name;
use crate::transfer::Transfers;

/// How often what did not go out is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// What settings of home begin with that are buckets.
const BUCKET: &str = "bucket/";
/// What settings of a bucket begin with that people set.
const SETTING: &str = "set/";

/// See the module head.
pub(crate) struct Names {
    transfers: Arc<Transfers>,
    home: Arc<OpenBucket>,
    /// By public key.
    open: Mutex<BTreeMap<[u8; 32], Arc<OpenBucket>>>,
    staged: Mutex<BTreeMap<[u8; 32], Staged>>,
}

/// A version as people and scripts get it: 32 hexadecimal digits.
pub(crate) fn hex_of(version: Version) -> String {
    hex::encode(version.to_bytes())
}

/// What the names of files sort by whose keys begin so.
pub(crate) fn prefix_of(key: &str) -> Vec<u8> {
    // The byte of the space stands before the key.
    let space = Name::file("/").map_or(0, |name| name.to_bytes().first().copied().unwrap_or_default());
    [&[space], key.as_bytes()].concat()
}

/// The name of a file or directory with this key.
pub(crate) fn file_name(key: &str) -> Result<Name, Failure> {
    Name::file(key).map_err(Failure::usage)
}

/// Whether a text can name a bucket, and why not.
fn check_bucket_name(name: &str) -> Result<(), Failure> {
    let sound = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if !(3..=63).contains(&bytes.len())
        || !bytes.iter().copied().all(sound)
        || !ends(bytes.first())
        || !ends(bytes.last())
        || name.contains("..")
        || name.parse::<std::net::Ipv4Addr>().is_ok()
    {
        return Err(Failure::usage(
            "a bucket's name has 3 to 63 characters of a-z, 0-9, - and ., begins and ends with a letter or \
             digit, and is no IP address",
        ));
    }
    Ok(())
}

/// Whether a bucket can be set so, and why not.
fn check_setting(name: &str, value: &str) -> Result<(), Failure> {
    let wrong = |why: String| Failure::usage(format!("{name}={value}: {why}"));
    match name {
        "keep-versions" => humantime::parse_duration(value)
            .map(drop)
            .map_err(|error| wrong(error.to_string())),
        "code" if value == "auto" => Ok(()),
        "code" => value
            .parse::<Code>()
            .map(drop)
            .map_err(|error| wrong(error.to_string())),
        _ => Err(wrong(
            "there are keep-versions, as in 30d, and code, as in rs:4+2 or auto".to_owned(),
        )),
    }
}

/// The name of a setting of a bucket.
fn setting(name: &str) -> Result<Name, Failure> {
    Name::new(Space::Settings, &format!("{SETTING}{name}")).map_err(Failure::usage)
}

fn setting_of(bucket: &str) -> Result<Name, Failure> {
    Name::new(Space::Settings, &format!("{BUCKET}{bucket}")).map_err(Failure::usage)
}

/// The write key that a setting is.
fn write_key_of(entry: &Entry) -> Option<WriteKey> {
    match &entry.what {
        What::Setting(value) => value.as_ref().try_into().ok().map(WriteKey::new),
        What::File(_) | What::Directory { .. } | What::Deleted | What::Snapshot(_) => None,
    }
}

impl Names {
    /// The names of an account, as this device left them.
    pub(crate) fn open(transfers: Arc<Transfers>, account: &Account) -> Result<Self, Failure> {
        let home = Arc::new(OpenBucket::open(&transfers, account.home())?);
        Ok(Self {
            transfers,
            home,
            open: Mutex::default(),
            staged: Mutex::default(),
        })
    }

    /// The buckets, by name.
    pub(crate) async fn buckets(&self) -> Result<Vec<Versions>, Failure> {
        let prefix = setting_of("")?;
        let all = self.home.list(&self.transfers, &prefix.to_bytes(), false).await?;
        Ok(all.filter(|versions| versions.there().is_some()).collect())
    }

    /// What a bucket of [`Names::buckets`] is called.
    pub(crate) fn bucket_name(versions: &Versions) -> &str {
        let key = versions.name().key();
        key.strip_prefix(BUCKET).unwrap_or(key)
    }

    /// The bucket of this name. `fresh`: what others did lately is asked for first, as it is before it is
    /// said that there is none.
    pub(crate) async fn bucket(&self, name: &str, fresh: bool) -> Result<Arc<OpenBucket>, Failure> {
        check_bucket_name(name)?;
        let mut key = self.bucket_key(name, fresh).await?;
        if key.is_none() && !fresh {
            key = self.bucket_key(name, true).await?;
        }
        let key = key.ok_or_else(|| {
            Failure::not_found("no such bucket; `mutualstore bucket ls` lists those there are")
        })?;
        self.opened(key)
    }

    async fn bucket_key(&self, name: &str, fresh: bool) -> Result<Option<WriteKey>, Failure> {
        let setting = setting_of(name)?;
        let versions = self.home.versions(&self.transfers, &setting, fresh).await?;
        Ok(versions.as_ref().and_then(Versions::there).and_then(write_key_of))
    }

    /// The bucket of this name, or the one that [`Names::create`] would make, which nobody knows of yet.
    pub(crate) async fn bucket_or_new(&self, name: &str) -> Result<Arc<OpenBucket>, Failure> {
        check_bucket_name(name)?;
        let versions = self
            .home
            .versions(&self.transfers, &setting_of(name)?, false)
            .await?;
        match versions {
            None => self.opened(self.home.key().bucket(name)),
            Some(_) => self.bucket(name, false).await,
        }
    }

    /// Makes a bucket, unless there is one of this name. Whether there was none.
    pub(crate) async fn create(&self, name: &str) -> Result<bool, Failure> {
        check_bucket_name(name)?;
        let setting = setting_of(name)?;
        let versions = self.home.versions(&self.transfers, &setting, false).await?;
        if versions
            .as_ref()
            .is_some_and(|versions| versions.there().is_some())
        {
            return Ok(false);
        }
        // One of this name that was deleted keeps its key to itself.
        let key = match versions {
            None => self.home.key().bucket(name),
            Some(_) => WriteKey::random(),
        };
        let value = What::Setting(Bytes::copy_from_slice(key.bytes()));
        self.home
            .write(&self.transfers, setting, value, Fields::new())
            .await?;
        Ok(true)
    }

    /// What was set for a bucket, by name.
    pub(crate) async fn settings(&self, bucket: &str) -> Result<BTreeMap<String, String>, Failure> {
        let open = self.bucket(bucket, false).await?;
        let prefix = setting("")?.to_bytes();
        let all = open.list(&self.transfers, &prefix, false).await?;
        let text = |versions: &Versions| {
            let What::Setting(value) = &versions.there()?.what else {
                return None;
            };
            let name = versions.name().key().strip_prefix(SETTING)?.to_owned();
            Some((name, String::from_utf8(value.to_vec()).ok()?))
        };
        Ok(all.filter_map(|versions| text(&versions)).collect())
    }

    /// Sets what holds for a bucket.
    pub(crate) async fn set(&self, bucket: &str, settings: &BTreeMap<String, String>) -> Result<(), Failure> {
        let open = self.bucket(bucket, false).await?;
        let mut changes = Vec::new();
        for (name, value) in settings {
            check_setting(name, value)?;
            if let ("code", Ok(code)) = (name.as_str(), value.parse::<Code>()) {
                let r = usize::try_from(self.transfers.member.network().r).unwrap_or(usize::MAX);
                code.check_ring(r)
                    .map_err(|error| Failure::usage(format!("code {code}: {error}; nothing was set")))?;
            }
            let what = What::Setting(Bytes::copy_from_slice(value.as_bytes()));
            changes.push(Change::new(setting(name)?, what, Fields::new()));
        }
        if !changes.is_empty() {
            open.write_all(&self.transfers, changes).await?;
        }
        Ok(())
    }

    /// The devices that wrote something of the account, by bucket; those of home first, without a name.
    pub(crate) async fn devices(&self) -> Result<Vec<(String, DeviceOf)>, Failure> {
        let of = |bucket: &str, devices: Vec<DeviceOf>| {
            let bucket = bucket.to_owned();
            devices.into_iter().map(move |device| (bucket.clone(), device))
        };
        let mut all: Vec<(String, DeviceOf)> = of("", self.home.devices(&self.transfers).await?).collect();
        for versions in self.buckets().await? {
            let name = Self::bucket_name(&versions);
            let open = self.bucket(name, false).await?;
            all.extend(of(name, open.devices(&self.transfers).await?));
        }
        Ok(all)
    }

    /// What the account is called where its words must not stand.
    pub(crate) fn account(&self) -> String {
        hex::encode(self.home.key().public())
            .get(..16)
            .unwrap_or_default()
            .to_owned()
    }

    fn opened(&self, key: WriteKey) -> Result<Arc<OpenBucket>, Failure> {
        let public = key.public();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = open.get(&public) {
            return Ok(Arc::clone(bucket));
        }
        let bucket = Arc::new(OpenBucket::open(&self.transfers, key)?);
        open.insert(public, Arc::clone(&bucket));
        Ok(bucket)
    }

    /// How many buckets have changes that holders do not have yet, and how many records holders had and lost.
    pub(crate) fn outlook(&self) -> (u64, u64) {
        let all = self.all();
        let outlooks = all.iter().map(|bucket| bucket.outlook());
        outlooks.fold((0, 0), |(waiting, lost), (waits, more)| {
            (waiting + u64::from(waits), lost + more)
        })
    }

    /// The transfers that names stand on.
    pub(crate) fn transfers(&self) -> &Arc<Transfers> {
        &self.transfers
    }

    /// Deletes the name that a link is in a bucket; none if it is in none. The name.
    pub(crate) async fn delete_link(&self, link: &Link) -> Result<Option<Deleted>, Failure> {
        for versions in self.buckets().await? {
            let bucket = Self::bucket_name(&versions);
            let open = self.bucket(bucket, false).await?;
            open.refresh(&self.transfers, false).await?;
            let Some((entry, shows)) = open.version_of(&link.manifest) else {
                continue;
            };
            let named = format!("/{bucket}/{}", entry.name.key());
            let What::File(file) = &entry.what else { continue };
            if !shows {
                return Err(Failure::usage(format!(
                    "this is an old version of {named}; old versions are kept, and nothing was deleted"
                )));
            }
            let (size_bytes, name) = (file.size, entry.name.clone());
            open.write(&self.transfers, name, What::Deleted, Fields::new())
                .await?;
            return Ok(Some(Deleted {
                name: base_name(entry.name.key()).to_owned(),
                size_bytes,
                stripes: 0,
                shards_left: 0,
                named: Some(named),
            }));
        }
        Ok(None)
    }

    /// The bucket with this public key, if it is one of the account's.
    async fn by_public(&self, public: &[u8; 32]) -> Result<Option<Arc<OpenBucket>>, Failure> {
        if self.home.key().public() == *public {
            return Ok(Some(Arc::clone(&self.home)));
        }
        let keys = self
            .home
            .list(&self.transfers, &setting_of("")?.to_bytes(), false)
            .await?;
        let mut keys = keys.flat_map(|versions| versions.all().filter_map(write_key_of).collect::<Vec<_>>());
        let key = keys.find(|key| key.public() == *public);
        key.map(|key| self.opened(key)).transpose()
    }

    /// Opens the buckets of which this device has something to say, so that it goes out.
    async fn reopen(&self) -> Result<(), Failure> {
        let data = self.transfers.member.data.path();
        for key in self
            .buckets()
            .await?
            .iter()
            .filter_map(Versions::there)
            .filter_map(write_key_of)
        {
            if disk::has_own(data, &key.public()) {
                self.opened(key)?;
            }
        }
        Ok(())
    }

    fn all(&self) -> Vec<Arc<OpenBucket>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::once(&self.home)
            .chain(open.values())
            .map(Arc::clone)
            .collect()
    }
}

/// Sends again what holders did not take, and keeps on disk what was seen of others.
pub(crate) async fn keep(names: Arc<Names>) {
    let mut reopened = false;
    loop {
        tokio::time::sleep(AGAIN).await;
        reopened = reopened || names.reopen().await.is_ok();
        names.end_stages().await;
        for bucket in names.all() {
            bucket.keep_seen();
            let gone_on = bucket.go_on(&names.transfers).await;
            if let Err(failure) = gone_on.and(bucket.purge(&names.transfers).await) {
                tracing::debug!(%failure, "names wait");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_have_names_as_in_s3() {
        for good in ["abc", "a-b.c1", "0a0", &"a".repeat(63)] {
            assert!(check_bucket_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "ab",
            "Abc",
            "a_b",
            "-ab",
            "ab-",
            "a..b",
            "192.168.1.1",
            &"a".repeat(64),
            "ä12",
        ] {
            assert!(check_bucket_name(bad).is_err(), "{bad}");
        }
    }
}
