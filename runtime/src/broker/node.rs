//! A broker as one of several.

use std::{collections::BTreeMap, ffi::OsString, net::Ipv4Addr};

/// Where clients connect to: all nodes have addresses of their own.
const CLIENTS_PORT: u16 = 9092;
/// Where they elect their controller.
const CONTROLLER_PORT: u16 = 9093;

/// A node of a cluster: broker and controller in one. Every record has a copy on each of three nodes, and counts as
/// written once two have it.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its number.
    pub id: i32,
    /// The addresses of all nodes, by number; its own, too.
    pub addresses: BTreeMap<i32, Ipv4Addr>,
    /// The id of the cluster, see [`super::cluster_id`]; the same for all.
    pub cluster: String,
    /// The command by which Java is started, for example `nsenter --net=FILE`. It must become Java (`exec`). None if empty.
    pub within: Vec<OsString>,
    /// The largest heap, in MiB.
    pub heap_mib: u32,
}

impl Node {
    /// Where clients find it.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("{}:{CLIENTS_PORT}", self.address(self.id))
    }

    fn address(&self, id: i32) -> Ipv4Addr {
        self.addresses.get(&id).copied().unwrap_or(Ipv4Addr::LOCALHOST)
    }

    /// What stands before Java, and what says how much memory it may take.
    pub(super) fn launch(&self) -> (Vec<OsString>, Vec<OsString>) {
        let heap = ["-Xms64m".into(), format!("-Xmx{}m", self.heap_mib).into()];
        (self.within.clone(), heap.into())
    }

    /// The lines of `server.properties` in which it differs from a broker that is alone.
    pub(super) fn properties(&self) -> BTreeMap<String, String> {
        let own = self.address(self.id);
        let clients = format!("CLIENTS://{own}:{CLIENTS_PORT}");
        let voters: Vec<_> =
            self.addresses.iter().map(|(id, address)| format!("{id}@{address}:{CONTROLLER_PORT}")).collect();
        let copies = self.addresses.len().min(3);
        // Most of the copies: what one node says can then be lost with it, and what was acknowledged can not.
        let most = copies / 2 + 1;
        let mut lines = BTreeMap::from(
            [
                ("node.id", self.id.to_string()),
                ("listeners", format!("{clients},CONTROLLER://{own}:{CONTROLLER_PORT}")),
                ("advertised.listeners", clients),
                ("controller.quorum.voters", voters.join(",")),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        for topic in ["default", "offsets.topic", "transaction.state.log", "share.coordinator.state.topic"] {
            lines.insert(format!("{topic}.replication.factor"), copies.to_string());
        }
        for name in
            ["min.insync.replicas", "transaction.state.log.min.isr", "share.coordinator.state.topic.min.isr"]
        {
            lines.insert(name.to_owned(), most.to_string());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::{super::cluster_id, *};

    #[test]
    fn a_node_knows_its_place_among_three() {
        let address = |id: i32| Ipv4Addr::new(198, 18, 0, u8::try_from(id).unwrap());
        let node = Node {
            id: 2,
            addresses: (1..=3).map(|id| (id, address(id))).collect(),
            cluster: cluster_id(),
            within: Vec::new(),
            heap_mib: 192,
        };
        assert_eq!(node.bootstrap(), "198.18.0.2:9092");
        let lines = node.properties();
        assert_eq!(lines["node.id"], "2");
        assert_eq!(
            lines["controller.quorum.voters"],
            "1@198.18.0.1:9093,2@198.18.0.2:9093,3@198.18.0.3:9093"
        );
        assert_eq!(lines["listeners"], "CLIENTS://198.18.0.2:9092,CONTROLLER://198.18.0.2:9093");
        for (copies, most) in [
            ("default.replication.factor", "min.insync.replicas"),
            ("transaction.state.log.replication.factor", "transaction.state.log.min.isr"),
        ] {
            assert_eq!((lines[copies].as_str(), lines[most].as_str()), ("3", "2"));
        }
    }
}
