//! Running the load balancer in a lab.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    Child, Error, Namespace,
    topology::{NODE_NAME, POD_BRIDGE, UPLINK},
};

/// How long the load balancer may take until every VIP is carried and announced.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// How to run the load balancer: a program that takes the arguments of `evenkeel run`.
#[derive(Debug, Clone)]
pub struct Balancer {
    /// The program, usually `evenkeel`.
    pub program: PathBuf,
    /// The manifests to carry out.
    pub manifests: PathBuf,
    /// The node's name.
    pub node: String,
    /// The interfaces to attach to; by default the uplink, and the backends' bridge for replies of direct forwarding.
    pub interfaces: Vec<String>,
    /// Where it keeps its memory.
    pub state_dir: PathBuf,
    /// Its admin socket.
    pub admin: PathBuf,
    /// Further arguments.
    pub arguments: Vec<String>,
}

impl Balancer {
    /// For the node of a [`crate::topology::Standard`] lab; its state and its socket go below `directory`.
    #[must_use]
    pub fn new(program: &Path, manifests: &Path, directory: &Path) -> Self {
        Self {
            program: program.to_owned(),
            manifests: manifests.to_owned(),
            node: NODE_NAME.to_owned(),
            interfaces: vec![UPLINK.to_owned(), POD_BRIDGE.to_owned()],
            state_dir: directory.join("state"),
            admin: directory.join("admin.sock"),
            arguments: Vec::new(),
        }
    }

    /// The command line.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("run").arg(&self.manifests);
        command.args(["--node", &self.node]).args(["--interface", &self.interfaces.join(",")]);
        command.arg("--state-dir").arg(&self.state_dir);
        command.arg("--admin").arg(format!("unix:{}", self.admin.display()));
        command.args(&self.arguments);
        command
    }

    /// Starts it and waits until it has printed `ready`.
    ///
    /// # Errors
    /// [`Error::EndedEarly`] or [`Error::NotPrinted`] with its last output.
    pub fn start(&self, node: &Namespace) -> Result<Child, Error> {
        let child = node.spawn(self.command())?;
        child.wait_for_line("ready", READY_TIMEOUT)?;
        Ok(child)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::command_line;

    #[test]
    fn the_command_line_is_that_of_run() {
        let mut balancer = Balancer::new(Path::new("/bin/evenkeel"), Path::new("/m"), Path::new("/d"));
        balancer.arguments = vec!["--detach".to_owned()];
        assert_eq!(
            command_line(&balancer.command()),
            "evenkeel run /m --node node --interface up0,pods --state-dir /d/state --admin unix:/d/admin.sock --detach"
        );
    }
}
