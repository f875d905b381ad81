#!/bin/sh
# Installs Stella from its archive on a Linux system with systemd that has no package for it, and takes it away again.
# Safe to repeat. Files in /etc that are there stay as they are.
set -eu
# Root's own may keep folders from the services' users that are to read what is in them.
umask 022

usage() {
    cat <<'END'
Usage: install.sh [OPTIONS] PROGRAM...

PROGRAM is stella-orchestrator, stella-agent or stella.

  --archive FILE      the archive; SHA256SUMS and SHA256SUMS.sig are expected beside it
  --public-key FILE   the Ed25519 public key (PEM) that SHA256SUMS.sig has to be of
  --no-signature      check the checksum only: whoever can change the archive can change that too
  --uninstall         take the programs away; configuration and state stay
  --dry-run           say what would be done and do nothing
  --root FOLDER       install into a folder instead of /, for images; no user is made and systemd is not told

Examples:
  install.sh --archive stella-0.1.0-linux-amd64.tar.gz --public-key stella.pem stella-agent
  install.sh --uninstall stella-agent
END
}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

archive='' key='' signed=yes uninstall=no dry=no root='' programs=''
while [ $# -gt 0 ]; do
    case $1 in
    --archive | --public-key | --root)
        [ $# -ge 2 ] || fail "$1 needs a value; see --help"
        case $1 in --archive) archive=$2 ;; --public-key) key=$2 ;; --root) root=${2%/} ;; esac
        shift
        ;;
    --no-signature) signed=no ;;
    --uninstall) uninstall=yes ;;
    --dry-run) dry=yes ;;
    --help | -h) usage && exit 0 ;;
    stella-orchestrator | stella-agent | stella) programs="$programs $1" ;;
    *) fail "$1 is not an option and not a program; see --help" ;;
    esac
    shift
done
[ -n "$programs" ] || fail "say which programs; see --help"
lists=$root/var/lib/stella-install
systemd_min=249

do_it() {
    if [ "$dry" = yes ]; then echo "would run: $*"; else "$@"; fi
}

tell_systemd() {
    if [ -z "$root" ] && [ -d /run/systemd/system ]; then do_it systemctl "$@"; fi
}

# What a package manager has put there is its own to change.
not_packaged() {
    [ -z "$root" ] || return 0
    if dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q ' installed$' || rpm -q "$1" >/dev/null 2>&1; then
        fail "$1 is installed as a package; use the package manager, or remove the package first"
    fi
}

# An older systemd passes over what the units need, such as the start of the agent once it is enrolled.
new_enough() {
    [ -z "$root" ] || return 0
    there=$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
    [ -z "$there" ] || [ "$there" -ge "$systemd_min" ] ||
        fail "systemd $systemd_min or newer is needed, and this host has $there"
}

verify() {
    [ -n "$archive" ] || fail "say where the archive is: --archive FILE"
    [ -f "$archive" ] || fail "$archive is not there"
    folder=$(dirname "$archive")
    name=$(basename "$archive")
    sums=$folder/SHA256SUMS
    [ -f "$sums" ] || fail "$sums is not there; it belongs beside the archive"
    # From here on only the copies are looked at: whoever may write to that folder changes nothing any more.
    cp "$sums" "$work/sums"
    if [ "$signed" = yes ]; then
        [ -n "$key" ] || fail "say whose signature to expect: --public-key FILE (or --no-signature)"
        command -v openssl >/dev/null || fail "openssl is needed to check the signature, and is not installed"
        [ -f "$sums.sig" ] || fail "$sums.sig is not there; it belongs beside the archive"
        cp "$sums.sig" "$work/sums.sig"
        openssl pkeyutl -verify -rawin -pubin -inkey "$key" -sigfile "$work/sums.sig" -in "$work/sums" >/dev/null 2>&1 ||
            fail "the signature of $sums is not of $key; nothing was changed"
    fi
    wanted=$(awk -v name="./$name" '$2 == name { print $1 }' "$work/sums")
    [ -n "$wanted" ] || fail "$sums says nothing about $name"
    cp "$archive" "$work/archive"
    found=$(sha256sum <"$work/archive" | cut -d ' ' -f 1)
    [ "$found" = "$wanted" ] || fail "$archive is damaged or changed: its checksum is not the one in $sums"
    mkdir "$work/tree"
    tar -xzf "$work/archive" -C "$work/tree" --no-same-owner
}

# Kept until the service has been told: an installation that is cut off in between is told of by the next one.
changes() { # PROGRAM
    mkdir -p "$lists"
    : >"$lists/$1.changed"
}

put() { # PROGRAM FILE, relative to the root
    from=$work/tree/$1/$2
    to=$root/$2
    case $2 in
    etc/*)
        if [ -e "$to" ]; then
            if cmp -s "$from" "$to"; then return 0; fi
            echo "$to stays as it is; the new one is $root/usr/share/doc/$1/${2##*/}.new"
            to=$root/usr/share/doc/$1/${2##*/}.new
        fi
        ;;
    esac
    if cmp -s "$from" "$to"; then return 0; fi
    mode=0644
    [ ! -x "$from" ] || mode=0755
    if [ "$dry" = yes ]; then
        echo "would write: $to"
        : >"$work/changed"
        return 0
    fi
    changes "$1"
    mkdir -p "$(dirname "$to")"
    # A running program's file cannot be written to, but its name can be given to another.
    install -m "$mode" "$from" "$to.installing"
    mv -f "$to.installing" "$to"
    echo "$to"
}

install_one() {
    not_packaged "$1"
    [ -d "$work/tree/$1" ] || fail "the archive has no $1"
    (cd "$work/tree/$1" && find . -type f | sed 's,^\./,,' | LC_ALL=C sort) >"$work/files"
    while IFS= read -r file; do put "$1" "$file"; done <"$work/files"
    if [ "$dry" = no ]; then
        mkdir -p "$lists"
        # What an older version had and this one has not is taken away.
        if [ -f "$lists/$1" ]; then
            LC_ALL=C comm -23 "$lists/$1" "$work/files" | grep -v '^etc/' | while IFS= read -r file; do
                changes "$1"
                rm -f "$root/$file"
            done || :
        fi
        cp "$work/files" "$lists/$1"
    fi
    if [ -z "$root" ]; then
        case $1 in
        stella-orchestrator) do_it systemd-sysusers stella-orchestrator.conf ;;
        stella-agent) do_it systemd-tmpfiles --create stella-agent.conf ;;
        esac
    fi
    # A service whose files are those that it runs with is left alone.
    if [ -e "$lists/$1.changed" ] || [ -e "$work/changed" ]; then
        tell_systemd daemon-reload
        case $1 in stella-*) tell_systemd --no-block try-restart "$1.service" ;; esac
        rm -f "$work/changed"
        [ "$dry" = yes ] || rm -f "$lists/$1.changed"
    fi
}

# The control groups of the agent's unit on this host: those of containers are below scopes and other services.
agent_groups() {
    for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
        find "$hierarchy" -mindepth 1 \( -type d -name stella-agent.service -print -prune \) \
            -o \( -type d ! -name '*.slice' -prune \) 2>/dev/null || :
    done
}

processes_in() { # FOLDER
    find "$1" -name cgroup.procs -exec cat {} + 2>/dev/null || :
}

processes_from() { # PID
    echo "$1"
    for child in $(cat /proc/"$1"/task/*/children 2>/dev/null || :); do processes_from "$child"; done
}

# Of each command that runs its supervisor, and its control group, or what has come of the supervisor where there is no group. What tasks
# have left running on purpose has no supervisor any more and stays, and a task that takes its own agent away goes on to its end.
running_tasks() {
    for unit in $(agent_groups); do
        for pid in $(processes_in "$unit"); do
            case $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" || :) in
            */stella-agent\ supervise\ * | /proc/self/exe\ supervise\ *) ;;
            *) continue ;;
            esac
            group=$(sed -n 's,^0::.*/stella-agent\.service/\(task-[^/]*\).*,\1,p' "/proc/$pid/cgroup" 2>/dev/null || :)
            if [ -z "$group" ]; then
                what=$(processes_from "$pid")
                all=$what
            else
                # Where there are two hierarchies, only one of them has the groups.
                [ -d "$unit/$group" ] || continue
                what="$pid $unit/$group"
                all=$(processes_in "$unit/$group")
            fi
            # shellcheck disable=SC2116,SC2086 # one line
            case " $(echo $all) " in *" $$ "*) ;; *) echo "$what" ;; esac
        done
    done
}

still_there() { # WHAT...
    for what; do
        case $what in
        /*) processes_in "$what" ;;
        *) if grep -qs '/stella-agent\.service' "/proc/$what/cgroup"; then echo "$what"; fi ;;
        esac
    done
}

# Tasks outlive the service, for the next one to report them. Where there is none any more they are ended: asked to, then killed.
end_tasks() {
    running=$(running_tasks)
    for signal in TERM KILL; do
        for second in 1 2 3 4 5 6 7 8 9 10; do
            # shellcheck disable=SC2086 # one word for each
            tasks=$(still_there $running)
            [ -n "$tasks" ] || return 0
            # shellcheck disable=SC2086 # one word for each process
            if [ "$signal$second" = TERM1 ] || [ $signal = KILL ]; then kill -s $signal $tasks 2>/dev/null || :; fi
            sleep 1
        done
    done
    echo "processes of tasks are left:" $tasks >&2
}

uninstall_one() {
    not_packaged "$1"
    if [ ! -f "$lists/$1" ]; then
        echo "$1 is not installed by this script; there is nothing to do"
        return 0
    fi
    # All that it has: a unit that is enabled and gone would be tried at each boot.
    for unit in $(sed -n 's,^usr/lib/systemd/system/\(.*\.\(service\|timer\)\)$,\1,p' "$lists/$1"); do
        tell_systemd disable --now "$unit"
    done
    if [ "$1" = stella-agent ] && [ -z "$root" ]; then do_it end_tasks; fi
    grep -v '^etc/' "$lists/$1" >"$work/files" || :
    while IFS= read -r file; do do_it rm -f "$root/$file"; done <"$work/files"
    do_it rm -rf "$root/usr/share/doc/$1"
    for folder in stella stella-agent; do
        [ ! -d "$root/usr/share/$folder" ] || do_it find "$root/usr/share/$folder" -depth -type d -empty -delete
    done
    do_it rm -f "$lists/$1" "$lists/$1.changed"
    [ ! -d "$lists" ] || do_it rmdir --ignore-fail-on-non-empty "$lists"
    tell_systemd daemon-reload
    [ "$dry" = yes ] || echo "$1 is gone; $root/etc/stella and its state in $root/var/lib stay"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ "$uninstall" = no ]; then
    new_enough
    verify
fi
for program in $programs; do
    if [ "$uninstall" = yes ]; then uninstall_one "$program"; else install_one "$program"; fi
done
