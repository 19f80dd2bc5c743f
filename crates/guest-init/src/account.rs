//! As whom a command runs: the user that the host names, from the guest's own lists (passwd(5),
//! group(5)). Without a name it is root.

use std::fs;

/// What is read of a list at most, in bytes.
const LIST_LEN_MAX: usize = 4 << 20;
/// Most groups of a user, as in the kernel (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

/// A user with all that a process has of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Account {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The user's name, if the list has one.
    pub name: Option<String>,
    /// The home folder.
    pub home: String,
}

/// Finds `user` or `user:group`, each a name or a number.
pub fn find(text: &str) -> Result<Account, String> {
    let read = |path: &str| {
        let mut bytes = fs::read(path).unwrap_or_default();
        bytes.truncate(LIST_LEN_MAX);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    find_in(text, &read("/etc/passwd"), &read("/etc/group"))
}

fn find_in(text: &str, users: &str, groups: &str) -> Result<Account, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let line = line_of(users, user);
    let uid = match (&line, user.parse()) {
        (Some(line), _) => number(line, 2),
        (None, Ok(number)) => Some(number),
        (None, Err(_)) => None,
    };
    let uid = uid.ok_or_else(|| format!("there is no user {user} in /etc/passwd"))?;
    let gid = match group {
        Some(group) => match (line_of(groups, group), group.parse()) {
            (Some(line), _) => number(&line, 2),
            (None, Ok(number)) => Some(number),
            (None, Err(_)) => None,
        }
        .ok_or_else(|| format!("there is no group {group} in /etc/group"))?,
        // A user without an entry is in root's group.
        None => line.as_ref().and_then(|line| number(line, 3)).unwrap_or(0),
    };
    let field = |at: usize| line.as_ref().and_then(|line| line.get(at)).map(|f| (*f).to_owned());
    let name = field(0);
    // A group that is named stands alone.
    let further = match (&name, group) {
        (Some(name), None) => groups_of(groups, name),
        (_, _) => Vec::new(),
    };
    let home = field(5).filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned());
    Ok(Account { uid, gid, groups: further, name, home })
}

/// The fields of the line with this name or, behind all names, this number.
fn line_of<'a>(list: &'a str, wanted: &str) -> Option<Vec<&'a str>> {
    let lines = || list.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines()
        .find(|fields| fields.first() == Some(&wanted))
        .or_else(|| lines().find(|fields| fields.get(2) == Some(&wanted)))
}

fn number(fields: &[&str], at: usize) -> Option<u32> {
    fields.get(at)?.parse().ok()
}

fn groups_of(groups: &str, name: &str) -> Vec<u32> {
    let lines = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let members = lines.filter(|fields| {
        fields.get(3).is_some_and(|members| members.split(',').any(|member| member == name))
    });
    members.filter_map(|fields| number(&fields, 2)).take(GROUPS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:100:A:/home/alice:/bin/sh\n";
    const GROUPS: &str = "root:x:0:\nusers:x:100:\nsound:x:29:bob,alice\nvideo:x:44:alice\n";

    fn check(text: &str, expected: Result<(u32, u32, &[u32], &str), &str>) {
        match (find_in(text, USERS, GROUPS), expected) {
            (Ok(found), Ok(expected)) => {
                let found = (found.uid, found.gid, &*found.groups, &*found.home);
                assert_eq!(found, expected, "{text}");
            }
            (found, Err(why)) => assert!(found.unwrap_err().contains(why), "{text}"),
            (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn users_and_groups() {
        check("root", Ok((0, 0, &[], "/root")));
        check("alice", Ok((1000, 100, &[29, 44], "/home/alice")));
        check("1000", Ok((1000, 100, &[29, 44], "/home/alice")));
        check("alice:sound", Ok((1000, 29, &[], "/home/alice")));
        check("alice:7", Ok((1000, 7, &[], "/home/alice")));
        check("77", Ok((77, 0, &[], "/")));
        check("77:users", Ok((77, 100, &[], "/")));
        check("bob", Err("no user bob"));
        check("alice:nobody", Err("no group nobody"));
        check("", Err("no user"));
        check("4294967296", Err("no user"));
    }
}
