#!/bin/sh
# Keeps QEMU's processes in the host's control group: within half a second of their start, and nothing else of the host.
set -u
while :; do
  for file in /run/libvirt/qemu/vm_*.pid; do
    [ -e "$file" ] && read -r pid < "$file" || continue
    for group in /run/berth/guests/*; do
      # One that has just ended is none any more.
      { echo "$pid" > "$group/cgroup.procs"; } 2>/dev/null
    done
  done
  sleep 0.5
done
