# Makes Debian roots: "bootstrap DIR" a minimal one, "install DIR BASE PACKAGE..." a copy of BASE with packages.
# The mirror and the proxies are this machine's own, where apt knows any.

# mirror prints the URI of this machine's Debian mirror, security and update suites aside.
mirror() {
	apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
		while read -r label uri; do
			case $label in Debian) echo "${uri%/}"; break ;; esac
		done
}

# prepare gives the root in $1 what apt needs in it: name resolution, proxies, no services, tolerance for old indexes.
prepare() {
	cp /etc/resolv.conf "$1/etc/resolv.conf"
	printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d"
	chmod 755 "$1/usr/sbin/policy-rc.d"
	mkdir -p "$1/etc/apt/apt.conf.d"
	{
		echo 'Acquire::Check-Valid-Until "false";'
		echo 'APT::Install-Recommends "false";'
		apt-config dump 2>/dev/null | grep -E '^Acquire::(http|https)::Proxy' || true
	} >"$1/etc/apt/apt.conf.d/90bed"
}

root=$2
case $1 in
bootstrap)
	# debootstrap may be older than the suite and not know it; all suites after 2009 share one script.
	debootstrap --variant=minbase "$SUITE" "$root" "$(mirror)" /usr/share/debootstrap/scripts/sid
	prepare "$root"
	chroot "$root" apt-get update -qq
	;;
install)
	cp -a "$3" "$root"
	shift 3
	prepare "$root"
	mount -t proc proc "$root/proc"
	chroot "$root" apt-get update -qq
	# etcd-server fails to configure without an init system, which harms nobody here; the caller looks for the programs.
	chroot "$root" apt-get install -y -qq "$@" || chroot "$root" dpkg --configure -a || true
	for package in "$@"; do
		chroot "$root" dpkg-query -W "$package" >/dev/null
	done
	umount "$root/proc"
	;;
esac
rm -f "$root"/var/cache/apt/archives/*.deb
