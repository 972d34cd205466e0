# shellcheck shell=bash
# Sourced by infra/setup and infra/run: which versions of the tools Berth runs on, where they are kept, and PATH.

node_version=24.21.0
temporal_version=1.5.1

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export BERTH_CACHE=${BERTH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/berth}
node_home=$BERTH_CACHE/node/$node_version
temporal_home=$BERTH_CACHE/temporal/$temporal_version

# Later ones win: what setup had to fetch stands before what the machine has. A login without sbin, or Go's usual place
# that no profile names, must not matter.
PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin
for folder in "$node_home/bin" "$temporal_home/bin"; do
  [[ -d $folder ]] && PATH=$folder:$PATH
done
export PATH
