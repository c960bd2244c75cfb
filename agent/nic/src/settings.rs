//! How interfaces are set up: what an administrator or a driver chose, not what passes through.
//!
//! In: rtnetlink (MTU), ethtool netlink (speed, autonegotiation, FEC, pause), SIOCETHTOOL (driver and firmware), DCB netlink
//! (priority flow control, scheduling, DSCP). Out: [`Settings`] of each chosen interface; what a driver does not say is
//! absent. Under another host's tree sysfs alone is read. Never: a setting changed.
//! Numbers: include/uapi/linux/{if_link,ethtool_netlink,dcbnl}.h.

use crate::ethtool_ioctl::EthtoolIoctl;
use crate::generic_netlink::Ethtool;
use crate::link::{self, Link, RTM_NEWLINK, RTMGRP_LINK};
use crate::netdev_choice::{NetdevChoice, from_sysfs};
use crate::netlink::{Attributes, Message, Netlink, Request, number, text};
use crate::sources::is_sysfs;
use crate::{NicConfig, sysfs};
use nix::sys::socket::SockProtocol;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

const IFLA_MTU: u16 = 4;
const LINKMODES_GET: u8 = 4;
const PAUSE_GET: u8 = 21;
const FEC_GET: u8 = 29;
const RTM_GETDCB: u16 = 78;
const CMD_IEEE_GET: u8 = 21;
const ATTR_IFNAME: u16 = 1;
const ATTR_IEEE: u16 = 13;
const IEEE_ETS: u16 = 1;
const IEEE_PFC: u16 = 2;
const IEEE_APP_TABLE: u16 = 3;
const IEEE_APP_TRUST_TABLE: u16 = 11;
/// IEEE_8021QAZ_APP_SEL_DSCP.
const SELECTOR_DSCP: u8 = 5;
/// Link notifications that wait to be read.
const EVENT_BUFFER: usize = 256 * 1024;

/// Forward error correction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fec {
    /// Names of those allowed, as the kernel has them: `RS`, `BASER`, `LLRS`, `None`.
    pub configured: Vec<String>,
    /// The driver chooses.
    pub auto: bool,
    /// The one in use, while the link is up.
    pub active: Option<&'static str>,
}

/// 802.3x pause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pause {
    /// Negotiated with the other end.
    pub autoneg: bool,
    /// Frames received are obeyed.
    pub receive: bool,
    /// Frames are sent.
    pub transmit: bool,
}

/// Enhanced transmission selection (`struct ieee_ets`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ets {
    /// Percent of each traffic class; `None` where it is not scheduled by share (strict priority, vendor).
    pub percent: [Option<u8>; 8],
    /// Traffic class of each priority.
    pub priority_class: [u8; 8],
}

/// How one interface is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Its name.
    pub name: String,
    /// Its number in this network namespace.
    pub index: u32,
    /// Bytes.
    pub mtu: Option<u32>,
    /// Name of its driver.
    pub driver: Option<String>,
    /// Version that the driver claims.
    pub driver_version: Option<String>,
    /// Its firmware.
    pub firmware_version: Option<String>,
    /// Mbit/s while the link is up.
    pub speed_mbit_per_s: Option<u32>,
    /// Full duplex.
    pub full_duplex: Option<bool>,
    /// Autonegotiation is on.
    pub autoneg: Option<bool>,
    /// Forward error correction.
    pub fec: Option<Fec>,
    /// Pause.
    pub pause: Option<Pause>,
    /// One bit for each priority that has priority flow control.
    pub pfc_enabled: Option<u8>,
    /// Scheduling of traffic classes.
    pub ets: Option<Ets>,
    /// (DSCP, priority), as mapped.
    pub dscp_priority: Vec<(u8, u8)>,
    /// What a packet's priority is taken from, the first that it has.
    pub trust: Vec<&'static str>,
}

/// Reads the settings of the chosen interfaces.
pub struct SettingsReader {
    root: PathBuf,
    choice: NetdevChoice,
    sockets: Option<Sockets>,
}

struct Sockets {
    route: Netlink,
    events: Netlink,
    ethtool: Option<Ethtool>,
    ioctl: Option<EthtoolIoctl>,
}

impl SettingsReader {
    /// For the interfaces that the NIC sources read too.
    ///
    /// # Errors
    /// No rtnetlink.
    pub fn open(config: &NicConfig) -> io::Result<Self> {
        let NicConfig { sysfs_root: root, software_interfaces } = config;
        let may_use_netlink = is_sysfs(root);
        let choice = NetdevChoice { software_kinds: software_interfaces.clone(), may_use_netlink };
        let open = || -> io::Result<Sockets> {
            Ok(Sockets {
                events: Netlink::listen(SockProtocol::NetlinkRoute, RTMGRP_LINK, EVENT_BUFFER)?,
                route: Netlink::open(SockProtocol::NetlinkRoute)?,
                ethtool: Ethtool::open().ok(),
                ioctl: EthtoolIoctl::open().ok(),
            })
        };
        let sockets = may_use_netlink.then(open).transpose()?;
        Ok(Self { root: root.clone(), choice, sockets })
    }

    /// All chosen interfaces.
    ///
    /// # Errors
    /// They cannot be listed. A question that one driver does not answer is no error.
    pub fn all(&mut self) -> io::Result<Vec<Settings>> {
        let Self { root, choice, sockets } = self;
        let Some(sockets) = sockets else {
            let links = from_sysfs(root).unwrap_or_default();
            let chosen = links.into_iter().filter(|link| choice.wants(root, link));
            return Ok(chosen.map(|link| by_file(root, link)).collect());
        };
        let mut links = Vec::new();
        sockets.route.dump(&mut link::request(0), |message| links.extend(heard(message)))?;
        links.retain(|(link, _)| choice.wants(root, link));
        Ok(links.into_iter().map(|(link, mtu)| sockets.settings(root, link, mtu)).collect())
    }

    /// Becomes readable when the kernel tells of a change to an interface; `None` under another host's tree.
    #[must_use]
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.sockets.as_ref().map(|sockets| sockets.events.as_fd())
    }

    /// The chosen interfaces that notifications told of since the last call, each once, as they are set up now. One that
    /// is gone meanwhile is left out.
    ///
    /// # Errors
    /// Notifications were lost: read all.
    pub fn changed(&mut self, max: usize) -> io::Result<Vec<Settings>> {
        let Self { root, choice, sockets: Some(sockets) } = self else { return Ok(Vec::new()) };
        let mut told: Vec<u32> = Vec::new();
        sockets.events.drain(|message| {
            if let Some((link, _)) = heard(message)
                && choice.wants(root, &link)
                && !told.contains(&link.index)
            {
                told.push(link.index);
            }
        })?;
        let mut settings = Vec::new();
        for index in told.into_iter().take(max) {
            if let Ok(Some((link, mtu))) = sockets.route.ask(&mut link::request(index), heard) {
                settings.push(sockets.settings(root, link, mtu));
            }
        }
        Ok(settings)
    }
}

/// A link with its MTU.
fn heard(message: Message<'_>) -> Option<(Link, Option<u32>)> {
    let link = Link::decode(message).filter(|_| message.kind == RTM_NEWLINK)?;
    let mtu = number(Attributes(message.body.get(16..)?).find_kind(IFLA_MTU));
    Some((link, mtu))
}

/// What the files of sysfs say.
fn by_file(root: &std::path::Path, link: Link) -> Settings {
    let directory = sysfs::device_path(root, "net", &link.name);
    let word = |file: &str| sysfs::line(directory.join(file)).filter(|word| !word.is_empty());
    let positive = |file: &str| word(file).and_then(|text| text.parse::<u32>().ok()).filter(|value| *value > 0);
    Settings {
        index: link.index,
        mtu: positive("mtu"),
        driver: Some(sysfs::driver(root, "net", &link.name)).filter(|driver| !driver.is_empty()),
        speed_mbit_per_s: positive("speed"),
        full_duplex: word("duplex")
            .and_then(|word| ["half", "full"].iter().position(|known| *known == word))
            .map(|at| at == 1),
        name: link.name,
        ..Settings::default()
    }
}

impl Sockets {
    fn settings(&mut self, root: &std::path::Path, link: Link, mtu: Option<u32>) -> Settings {
        let (index, name) = (link.index, link.name);
        let mut settings = Settings { index, mtu, ..Settings::default() };
        let said = |text: String| Some(text).filter(|text| !text.is_empty() && text != "N/A");
        if let Some(identity) = self.ioctl.as_mut().and_then(|ioctl| ioctl.identity(&name).ok()) {
            settings.driver = said(identity.driver);
            settings.driver_version = said(identity.driver_version);
            settings.firmware_version = said(identity.firmware_version);
        } else {
            settings.driver = said(sysfs::driver(root, "net", &name));
        }
        if let Some(ethtool) = &mut self.ethtool {
            let mut ask = |command, take: &mut dyn FnMut(&[u8])| {
                let mut request = ethtool.request(command, index, 0);
                // Not supported, or the link has no such thing: the setting is absent.
                let _ = ethtool.ask(&mut request, |answer| take(answer.0));
            };
            ask(LINKMODES_GET, &mut |answer| {
                settings.autoneg = byte(answer, 2).map(|autoneg| autoneg == 1);
                settings.speed_mbit_per_s =
                    number(Attributes(answer).find_kind(5)).filter(|mbit| *mbit != 0 && *mbit != u32::MAX);
                settings.full_duplex = byte(answer, 6).filter(|duplex| *duplex < 2).map(|duplex| duplex == 1);
            });
            ask(PAUSE_GET, &mut |answer| settings.pause = pause(answer));
            ask(FEC_GET, &mut |answer| settings.fec = fec(answer));
        }
        let mut request = Request::new(RTM_GETDCB, &[0, CMD_IEEE_GET, 0, 0]).text(ATTR_IFNAME, &name);
        // Drivers without DCB answer EOPNOTSUPP.
        let _ = self.route.ask(&mut request, |message| dcb(message.body, &mut settings));
        settings.name = name;
        settings
    }
}

fn byte(attributes: &[u8], kind: u16) -> Option<u8> {
    Attributes(attributes).find_kind(kind)?.first().copied()
}

fn pause(answer: &[u8]) -> Option<Pause> {
    let flag = |kind| byte(answer, kind).map(|value| value == 1);
    Some(Pause { autoneg: flag(2)?, receive: flag(3)?, transmit: flag(4)? })
}

fn fec(answer: &[u8]) -> Option<Fec> {
    /// ETHTOOL_LINK_MODE_FEC_*_BIT.
    const BITS: [(u32, &str); 4] = [(49, "None"), (50, "RS"), (51, "BASER"), (74, "LLRS")];
    // ETHTOOL_A_FEC_MODES is a bit set in its long form: BITS (3), each BIT (1) with its name (2); those listed are on
    // unless a VALUE flag (4) tells otherwise, which only a set with a mask has.
    let modes = Attributes(answer).find_kind(2)?;
    let has_mask = Attributes(modes).find_kind(1).is_none();
    let bits = Attributes(modes).find_kind(3).unwrap_or_default();
    let mut configured: Vec<String> = Attributes(bits)
        .filter(|(_, bit)| !has_mask || Attributes(bit).find_kind(4).is_some())
        .filter_map(|(_, bit)| Attributes(bit).find_kind(2).map(|name| text(name).to_owned()))
        .collect();
    configured.sort_unstable();
    let active = number(Attributes(answer).find_kind(4));
    let active = BITS.into_iter().find(|(bit, _)| Some(*bit) == active).map(|(_, name)| name);
    Some(Fec { configured, auto: byte(answer, 3) == Some(1), active })
}

fn dcb(body: &[u8], settings: &mut Settings) {
    let Some(ieee) = Attributes(body.get(4..).unwrap_or_default()).find_kind(ATTR_IEEE) else { return };
    settings.pfc_enabled = Attributes(ieee).find_kind(IEEE_PFC).and_then(|pfc| pfc.get(1).copied());
    settings.ets = Attributes(ieee).find_kind(IEEE_ETS).and_then(ets);
    for (_, app) in Attributes(Attributes(ieee).find_kind(IEEE_APP_TABLE).unwrap_or_default()) {
        // `struct dcb_app`: selector, priority, protocol.
        if let [SELECTOR_DSCP, priority, dscp @ ..] = app
            && let Some(Ok(dscp)) = dscp.get(..2).map(<[u8; 2]>::try_from)
            && let Ok(dscp) = u8::try_from(u16::from_ne_bytes(dscp))
        {
            settings.dscp_priority.push((dscp, *priority));
        }
    }
    settings.dscp_priority.sort_unstable();
    let trust = Attributes(ieee).find_kind(IEEE_APP_TRUST_TABLE).unwrap_or_default();
    settings.trust =
        Attributes(trust).filter_map(|(_, selector)| selector.first().and_then(|s| selector_name(*s))).collect();
}

/// IEEE_8021QAZ_APP_SEL_* and DCB_APP_SEL_PCP.
fn selector_name(selector: u8) -> Option<&'static str> {
    [(1, "ethertype"), (2, "stream"), (3, "dgram"), (4, "any"), (SELECTOR_DSCP, "dscp"), (255, "pcp")]
        .into_iter()
        .find(|(known, _)| *known == selector)
        .map(|(_, name)| name)
}

/// `struct ieee_ets`: willing, capacity, cbs, then per class: transmit %, receive %, algorithm; then the class of each priority.
fn ets(ets: &[u8]) -> Option<Ets> {
    /// IEEE_8021QAZ_TSA_ETS.
    const BY_SHARE: u8 = 2;
    let eight = |from: usize| -> Option<[u8; 8]> { ets.get(from..from + 8)?.try_into().ok() };
    let (share, algorithm) = (eight(3)?, eight(19)?);
    let percent = std::array::from_fn(|class| (algorithm[class] == BY_SHARE).then_some(share[class]));
    Some(Ets { percent, priority_class: eight(27)? })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len() + 4).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), payload].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn fec_is_told_by_the_names_of_what_is_allowed_and_what_is_in_use() {
        let bit = |name: &str| attribute(1, &attribute(2, &[name.as_bytes(), &[0]].concat()));
        let modes = [attribute(1, &[]), attribute(3, &[bit("RS"), bit("BASER")].concat())].concat();
        let answer = [attribute(2, &modes), attribute(3, &[1]), attribute(4, &50u32.to_ne_bytes())].concat();
        let told = fec(&answer).unwrap();
        assert_eq!(told, Fec { configured: vec!["BASER".into(), "RS".into()], auto: true, active: Some("RS") });
        assert_eq!(fec(&attribute(3, &[1])), None);
    }

    #[test]
    fn dcb_tells_lossless_priorities_shares_dscp_and_trust() {
        let mut ieee_ets = [0u8; 59];
        ieee_ets[3..11].copy_from_slice(&[10, 90, 0, 0, 0, 0, 0, 0]);
        ieee_ets[19..27].copy_from_slice(&[2, 2, 0, 0, 0, 0, 0, 0]);
        ieee_ets[27..35].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]);
        let mut pfc = [0u8; 136];
        pfc[1] = 0b1000;
        let app = |selector: u8, priority: u8, protocol: u16| {
            attribute(1, &[&[selector, priority][..], &protocol.to_ne_bytes()].concat())
        };
        let table = [app(5, 3, 26), app(1, 4, 0x8906), app(5, 6, 48)].concat();
        let trust = [attribute(1, &[5]), attribute(2, &[255])].concat();
        let ieee = [attribute(1, &ieee_ets), attribute(2, &pfc), attribute(3, &table), attribute(11, &trust)].concat();
        let body = [vec![0, CMD_IEEE_GET, 0, 0], attribute(ATTR_IEEE, &ieee)].concat();
        let mut settings = Settings::default();
        dcb(&body, &mut settings);
        assert_eq!(settings.pfc_enabled, Some(8));
        let ets = settings.ets.unwrap();
        assert_eq!((ets.percent[..3].to_vec(), ets.priority_class[3]), (vec![Some(10), Some(90), None], 1));
        assert_eq!(settings.dscp_priority, [(26, 3), (48, 6)]);
        assert_eq!(settings.trust, ["dscp", "pcp"]);
    }

    proptest! {
        #[test]
        fn no_answer_whatever_breaks_a_decoder(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (fec(&bytes), pause(&bytes), ets(&bytes));
            dcb(&bytes, &mut Settings::default());
            dcb(&[vec![0; 4], attribute(ATTR_IEEE, &bytes)].concat(), &mut Settings::default());
            let _ = heard(Message { kind: RTM_NEWLINK, body: &bytes });
        }
    }
}
