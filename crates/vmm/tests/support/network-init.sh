#!/bin/sh
# The first process of the network tests' guests. It reads from the kernel's command line:
#
#   ip=ADDRESS::GATEWAY:MASK::DEVICE   what the network device gets, as in Linux's nfsroot.rst
#   network.key=TEXT                   an ed25519 key, without its type, that may log in as root
#   network.end                        end the machine when everything runs
#
# The disk may be read-only.

export PATH=/usr/sbin:/usr/bin:/sbin:/bin

mounted() { mountpoint -q "$1" || mount -t "$2" "$2" "$1"; }
mounted /proc proc
mounted /sys sysfs
mounted /dev devtmpfs
mkdir -p /dev/pts
mounted /dev/pts devpts
for folder in /run /tmp /root; do mount -t tmpfs -o mode=0700 tmpfs "$folder"; done

configure() {
    local IFS=:
    set -- $1
    ip address replace "$1/$4" dev "$6"
    ip link set "$6" up
    if [ -n "$3" ]; then ip route replace default via "$3" dev "$6"; fi
}

ip link set lo up
end=
mkdir -p -m 0700 /root/.ssh
for word in $(cat /proc/cmdline); do
    case $word in
        ip=*) configure "${word#ip=}" ;;
        network.key=*) echo "ssh-ed25519 ${word#network.key=}" > /root/.ssh/authorized_keys ;;
        network.end) end=1 ;;
    esac
done

running=
# Starts the service that is called $1, and waits until its port $2 is open or it ends.
serve() {
    local name=$1 port=$2
    shift 2
    "$@" &
    while kill -0 $!; do
        if ss -Htln "sport = :$port" | grep -q .; then
            running="$running $name"
            return
        fi
        sleep 0.1
    done
}

dropbearkey -t ed25519 -f /run/host-key > /dev/null
serve ssh 22 dropbear -F -E -s -r /run/host-key
serve iperf3 5201 iperf3 --server
if [ -e /dev/vsock ]; then
    socat -t 60 VSOCK-LISTEN:5000,backlog=128,reuseaddr,fork EXEC:cat &
    running="$running vsock"
fi
echo "----- network image runs:$running"
# This waits for all services, and takes in orphans meanwhile.
[ -n "$end" ] || wait
busybox reboot -f
