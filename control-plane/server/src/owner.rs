//! Whose the state folder is. Tools are run by root as a rule, the control plane is not: what a tool makes in the folder must not be in
//! its way.
//!
//! And the folder is that user's, who may put anything anywhere in it, also while a tool works there: a link to a file of root's, in
//! place of one that was just looked at. So root does nothing in the folder as root, but as the folder's owner: whatever a name leads to,
//! it is nothing that the owner could not do alone, and what is made is the owner's.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;
use nix::unistd::{
    Gid, Group, Uid, User, getegid, geteuid, getgrouplist, getgroups, setegid, seteuid, setgroups,
};

/// While it lives, this process is the owner of a folder to the file system. All of its threads are: it is for tools, and one at a time.
#[derive(Debug)]
pub(crate) struct AsOwner {
    /// What root was before; `None` if nothing was changed.
    before: Option<Root>,
}

#[derive(Debug)]
struct Root {
    group: Gid,
    groups: Vec<Gid>,
}

/// Becomes the owner of the state folder, if this is root and the folder is another's. Nobody else can, or has to; and without a folder
/// there is nobody to become.
///
/// # Errors
/// If the folder cannot be looked at, or root may not become others here.
pub(crate) fn become_owner(state_dir: &Path) -> anyhow::Result<AsOwner> {
    let owner = match fs::metadata(state_dir) {
        Ok(owner) => owner,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(AsOwner { before: None }),
        Err(error) => {
            return Err(error).with_context(|| format!("{} cannot be looked at", state_dir.display()));
        }
    };
    let group = Gid::from_raw(owner.gid());
    become_user(Uid::from_raw(owner.uid()), group, &[group])
        .with_context(|| format!("for {}, which is that user's", state_dir.display()))
}

/// Becomes a user as systemd does for a service: with the groups that the user is in, and those that the unit adds. Only root can, and
/// only another than root is become.
///
/// # Errors
/// If root may not become others here, or the user's groups cannot be read.
pub(crate) fn become_service(user: Uid, group: Gid, more: &[&str]) -> anyhow::Result<AsOwner> {
    let mut groups = vec![group];
    if let Some(known) = User::from_uid(user).context("users cannot be looked up")? {
        groups = getgrouplist(&CString::new(known.name)?, group).context("groups cannot be looked up")?;
    }
    let more = more.iter().filter_map(|name| Group::from_name(name).ok().flatten());
    groups.extend(more.map(|group| group.gid));
    become_user(user, group, &groups)
}

fn become_user(user: Uid, group: Gid, groups: &[Gid]) -> anyhow::Result<AsOwner> {
    if !geteuid().is_root() || user.is_root() {
        return Ok(AsOwner { before: None });
    }
    let wrong = || format!("root cannot become user {user}");
    // Made first: should a step fail, its drop takes back those before it.
    let as_owner =
        AsOwner { before: Some(Root { group: getegid(), groups: getgroups().with_context(wrong)? }) };
    setgroups(groups).and_then(|()| setegid(group)).and_then(|()| seteuid(user)).with_context(wrong)?;
    Ok(as_owner)
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        if let Some(Root { group, groups }) = &self.before {
            // Root is what this process was, and may be again. Should it not be, what follows fails for want of rights.
            seteuid(Uid::from_raw(0)).and_then(|()| setegid(*group)).and_then(|()| setgroups(groups)).ok();
        }
    }
}
