//! Planted flaws: wrong variants of the protocol, to show that the simulator's checks would notice.
//!
//! Only a build with the feature `flaws` can select one; in every other build [`Flaw`] is a list of names.

/// A wrong variant. Each names what is done wrong, where the right way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// A pointer that would become a first successor is taken over before it answered.
    AdoptUnverified,
    /// A newcomer takes the first entry of a list, not the list.
    JoinWithPart,
    /// Members never ask their address books for other rings.
    NoMerge,
    /// A newcomer is a member before it has its lists.
    MemberTooEarly,
    /// Being asked by a predecessor is no news.
    NoRectify,
    /// What the first successor does not list is dropped, not asked (Stoica et al. 2003).
    OriginalOrder,
    /// Lists count virtual nodes, not peers.
    CountVirtualNodes,
    /// The circle ends at its highest point.
    NoWrapAround,
    /// The dead stay on the circle.
    KeepTheDead,
    /// Who is busy is dead.
    BusyIsDead,
    /// The word of others brings the dead back.
    HearsayRevives,
    /// An older contact replaces a newer one.
    OldContactWins,
    /// A lookup drops from answers whom the asker counts as dead, without asking them.
    TrustDeaths,
    /// Every change anywhere makes the neighbourhood hurry.
    HurryForAll,
    /// Excess shards go when the primary says so, whatever other holders say.
    TrimWithoutConfirmation,
    /// A pending shard whose lease ended goes without a question whether its put was committed.
    ExpireWithoutAsking,
    /// Stripes are repaired before they are committed.
    RepairBeforeCommit,
    /// A holder that confirms does not pin, and confirms what it is dropping itself.
    ConfirmWithoutPin,
    /// Shards whose holders lie elsewhere are not handed off.
    NoHandoff,
    /// Excess shards stay.
    NoTrim,
    /// A report that failed is not repeated.
    ReportOnce,
    /// Reports to a peer that is not the primary are not answered with the primary.
    NoRedirect,
    /// Commits are not spread.
    NoCommitSpread,
    /// Missing shards are not regenerated.
    NoRepair,
    /// A peer that refused a shard is never asked again.
    RefusedForEver,
    /// A put is acknowledged before its holders have committed.
    AcknowledgeEarly,
    /// A deletion is over before its holders have the tombstones.
    DeleteEarly,
    /// A deletion ends where peers that are gone for long hold all there is, and nobody has a tombstone.
    DeleteUnkept,
    /// A tombstone stays with the primary it was first reported to.
    TombstoneStays,
    /// Tombstones are not spread: whoever holds a shard keeps it.
    IgnoreTombstones,
    /// Nobody repairs in place of a primary that does not.
    NoTakeOver,
    /// Locators that are missing are not written.
    NoLocators,
    /// Repairs follow `successors`, whatever the policy.
    ForgetPolicy,
    /// Excess shards go in favour of a peer that says it holds all of them.
    TrimForOne,
    /// Excess shards go in favour of peers that are no legal holders.
    TrimForStrangers,
    /// Excess shards go in favour of peers behind this one.
    TrimForThoseBehind,
    /// Excess shards go in favour of peers that leave.
    TrimForLeavers,
    /// Of those in whose favour an excess shard goes, only the one that keeps its index is asked to confirm.
    ConfirmKeeperAlone,
    /// A peer counts for all indices of a stripe that it claims.
    CountTwice,
    /// A primary that says that it is at work is believed for ever.
    BelievePrimaries,
    /// An audit of a stripe is in doubt for as long as its primary names strangers.
    DoubtForEver,
    /// Who says that a stripe is deleted need not show the tombstone.
    BelieveTombstones,
    /// An index that a holder claims and does not hand out is not rebuilt.
    BelieveClaims,
    /// Records that differ between their holders are not put together.
    NoMergeOfRecords,
    /// Records far from their id are dropped without asking who is nearer.
    YieldUnasked,
    /// A lower record of a writer replaces a higher one.
    LowerReplaces,
    /// Of two different records with one number and sequence only the last to come is kept.
    KeepOneOfTwo,
    /// A holder that has another record with the number and sequence of one that it is sent says nothing.
    IgnoreDoubles,
    /// A device that learns that another one uses its number keeps it.
    KeepNumber,
    /// A device writes its next record before the last one is acknowledged.
    OvertakeOwn,
    /// A record is acknowledged when one holder has it.
    PublishToOne,
    /// A reader asks those who should hold what it reads, and nobody more.
    AskHoldersAlone,
    /// A full reading ends without some of those that it asked.
    FullReadOfSome,
}

impl Flaw {
    /// Whether this is the flaw `planted`: never in a build without the feature.
    pub(crate) fn is_planted(self, planted: Option<Self>) -> bool {
        cfg!(feature = "flaws") && planted == Some(self)
    }

    /// All of them, by name.
    pub const ALL: [(&str, Self); 53] = [
        ("adopt-unverified", Self::AdoptUnverified),
        ("join-with-part", Self::JoinWithPart),
        ("no-merge", Self::NoMerge),
        ("member-too-early", Self::MemberTooEarly),
        ("no-rectify", Self::NoRectify),
        ("original-order", Self::OriginalOrder),
        ("count-virtual-nodes", Self::CountVirtualNodes),
        ("no-wrap-around", Self::NoWrapAround),
        ("keep-the-dead", Self::KeepTheDead),
        ("busy-is-dead", Self::BusyIsDead),
        ("hearsay-revives", Self::HearsayRevives),
        ("old-contact-wins", Self::OldContactWins),
        ("trust-deaths", Self::TrustDeaths),
        ("hurry-for-all", Self::HurryForAll),
        ("trim-without-confirmation", Self::TrimWithoutConfirmation),
        ("expire-without-asking", Self::ExpireWithoutAsking),
        ("repair-before-commit", Self::RepairBeforeCommit),
        ("confirm-without-pin", Self::ConfirmWithoutPin),
        ("no-handoff", Self::NoHandoff),
        ("no-trim", Self::NoTrim),
        ("report-once", Self::ReportOnce),
        ("no-redirect", Self::NoRedirect),
        ("no-commit-spread", Self::NoCommitSpread),
        ("no-repair", Self::NoRepair),
        ("refused-for-ever", Self::RefusedForEver),
        ("acknowledge-early", Self::AcknowledgeEarly),
        ("delete-early", Self::DeleteEarly),
        ("delete-unkept", Self::DeleteUnkept),
        ("tombstone-stays", Self::TombstoneStays),
        ("ignore-tombstones", Self::IgnoreTombstones),
        ("no-take-over", Self::NoTakeOver),
        ("no-locators", Self::NoLocators),
        ("forget-policy", Self::ForgetPolicy),
        ("trim-for-one", Self::TrimForOne),
        ("trim-for-strangers", Self::TrimForStrangers),
        ("trim-for-those-behind", Self::TrimForThoseBehind),
        ("trim-for-leavers", Self::TrimForLeavers),
        ("confirm-keeper-alone", Self::ConfirmKeeperAlone),
        ("count-twice", Self::CountTwice),
        ("believe-primaries", Self::BelievePrimaries),
        ("doubt-for-ever", Self::DoubtForEver),
        ("believe-tombstones", Self::BelieveTombstones),
        ("believe-claims", Self::BelieveClaims),
        ("no-merge-of-records", Self::NoMergeOfRecords),
        ("yield-unasked", Self::YieldUnasked),
        ("lower-replaces", Self::LowerReplaces),
        ("keep-one-of-two", Self::KeepOneOfTwo),
        ("ignore-doubles", Self::IgnoreDoubles),
        ("keep-number", Self::KeepNumber),
        ("overtake-own", Self::OvertakeOwn),
        ("publish-to-one", Self::PublishToOne),
        ("ask-holders-alone", Self::AskHoldersAlone),
        ("full-read-of-some", Self::FullReadOfSome),
    ];
}
