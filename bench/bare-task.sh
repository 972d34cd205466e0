#!/bin/bash
# The commands of one small task without orchestration: the baseline of `task.overhead`. Runs inside a host.
#   bare-task.sh DOMAIN_XML IMAGE_DISK ADDRESS/PLEN GATEWAY API KEY_FILE INPUT_FILE_ID
# Fills in the XML's placeholders @NAME@ @UUID@ @MAC@ @TAP@ @OVERLAY@ @DATA@ @WORK@.
# Prints {"total":ms,"boot":ms,"steps":{…}}; boot is the boot step of the task saga: the agent's first answer and the
# identity.
set -eu
xml=$1 image=$2 address=$3 gateway=$4 api=$5 key=$(<"$6") input=$7
name=bare$$ uuid=$(</proc/sys/kernel/random/uuid)
work=/var/lib/berth/staging/$name
mkdir -p "$work/in/in" "$work/out"
began=${EPOCHREALTIME/./} last=$began steps=
lap() { local now=${EPOCHREALTIME/./}; steps+="${steps:+,}\"$1\":$(((now - last) / 1000))"; spent=$(((now - last) / 1000)); last=$now; }

coproc VIRSH { exec stdbuf -oL virsh -q -c qemu:///system 2>&1; }
calls=0
trap '{ echo "destroy $name" >&"${VIRSH[1]}"; } 2>/dev/null || true; rm -rf "$work"' EXIT

# Sends a command to one persistent virsh. A mark ends the output, and `pwd` supplies the newline after the mark. On an
# error, `answer` holds its text and the function returns 1.
virsh_do() {
  calls=$((calls + 1)) answer= failed=0
  printf '%s\necho @%s@\npwd\n' "$1" "$calls" >&"${VIRSH[1]}"
  local line
  while IFS= read -r line <&"${VIRSH[0]}"; do
    case $line in
      "@$calls@"*) break ;;
      *error:*) failed=1 answer+=$line ;;
      '{'*) answer+=$line ;;
    esac
  done
  return "$failed"
}
agent() { virsh_do "qemu-agent-command $name '$1'"; }
must() { "$@" || { echo "failed: $answer" >&2; exit 1; }; }
# Runs a command through guest-exec and waits for its end; the exit code must be 0.
guest() {
  must agent "{\"execute\":\"guest-exec\",\"arguments\":{$1}}"
  local pid=${answer#*\"pid\":}; pid=${pid%%[\},]*}
  until must agent "{\"execute\":\"guest-exec-status\",\"arguments\":{\"pid\":$pid}}"; [[ $answer == *'"exited":true'* ]]; do sleep 0.01; done
  [[ $answer == *'"exitcode":0'* ]] || { echo "in the guest: $answer" >&2; exit 1; }
}

curl -sSf -H "Authorization: Bearer $key" -o "$work/in/in/data" "$api/v1/files/$input/content"
truncate -s 512M "$work/data.raw"
mkfs.ext4 -q -F -m 0 -E lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0 -d "$work/in" "$work/data.raw"
qemu-img create -q -f qcow2 -b "$image" -F qcow2 "$work/overlay.qcow2"
lap stageIn

mac=52:54:00:fe:$(printf '%02x:%02x' $(($$ >> 8 & 255)) $(($$ & 255)))
sed -e "s|@NAME@|$name|; s|@UUID@|$uuid|; s|@MAC@|$mac|; s|@TAP@|t$name|; s|@OVERLAY@|$work/overlay.qcow2|; s|@DATA@|$work/data.raw|; s|@WORK@|$work|" "$xml" >"$work/domain.xml"
must virsh_do "create $work/domain.xml"
lap create

until agent '{"execute":"guest-ping"}'; do sleep 0.01; done
records=$(printf 'seed %s\ntime %s\nhost %s\nmid %s\naddr eth0 %s %s\nmount /dev/vdb /home/task\n' \
  "$(od -An -vtx1 -N64 /dev/urandom | tr -d ' \n')" "${EPOCHREALTIME:0:14}" "$name" "${uuid//-/}" "$address" "$gateway" | base64 -w0)
guest "\"path\":\"/usr/local/sbin/berth-identity\",\"capture-output\":true,\"input-data\":\"$records\""
lap boot
boot=$spent

guest '"path":"/bin/sh","arg":["-c","cd /home/task \u0026\u0026 mkdir -p out \u0026\u0026 sha256sum in/data \u003eout/sum"],"capture-output":true'
lap run

must agent '{"execute":"guest-fsfreeze-freeze-list","arguments":{"mountpoints":["/home/task"]}}'
debugfs -R "dump /out/sum $work/out/sum" "$work/data.raw" 2>/dev/null
curl -sSf -H "Authorization: Bearer $key" -H 'Content-Type: application/octet-stream' --data-binary "@$work/out/sum" -o "$work/answer" "$api/v1/files?name=sum"
lap stageOut

must virsh_do "destroy $name"
rm -rf "$work"
lap destroy
echo "{\"total\":$(((last - began) / 1000)),\"boot\":$boot,\"steps\":{$steps}}"
