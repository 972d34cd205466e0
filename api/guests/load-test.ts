/** Load that a guest makes for itself, for tests of what a site does about it. */

export const loadKinds = ['processors', 'memory', 'disk'] as const;

export interface LoadOrder {
  kind: (typeof loadKinds)[number];
  /** Of `processors`: how many are kept busy, in hundredths. */
  cpus: number;
  /** Of `memory`: how much is held; of `disk`: how much is written again and again. */
  memoryMiB: number;
  seconds: number;
  /** When it begins by the guest's clock, in ms since 1970; null: at once. */
  startMs: number | null;
}

/**
 * A part of a processor is kept busy for that part of each second, by the clock. What is held in memory is the end of an output that
 * goes on. The last line has the processors' time that all of it took in the guest.
 */
const script = `
kind=$1 seconds=$2 whole=$3 part=$4 mib=$5 start=$6
started=
file=/tmp/berth-load-$$
end() { [ -z "$started" ] || { kill $started; wait; } 2>/dev/null; rm -f "$file"; times; }
trap 'end; exit 143' TERM HUP INT
burn() { while :; do :; done; }
read_time() { read -r now rest < /proc/uptime; now=\${now%.*}\${now#*.}; }
burn_part() {
  read_time; next=$now
  while :; do
    stop=$((next + part)); next=$((next + 100))
    read_time; [ $now -lt $next ] || next=$((now + 100))
    while [ $now -lt $stop ]; do read_time; done
    left=$((next - now))
    [ $left -ge 10 ] || left=0$left
    [ $((next - now)) -le 0 ] || sleep "0.$left"
  done
}
if [ "$start" != 0 ]; then
  early=$((start - $(date +%s%3N)))
  [ $early -le 0 ] || sleep "$((early / 1000)).$(printf %03d $((early % 1000)))"
fi
case $kind in
processors)
  while [ $whole -gt 0 ]; do burn & started="$started $!"; whole=$((whole - 1)); done
  [ "$part" = 0 ] || { burn_part & started="$started $!"; }
  sleep "$seconds" & wait $! ;;
memory)
  { head -c "\${mib}M" /dev/zero; sleep "$seconds"; } | tail -c "\${mib}M" > /dev/null ;;
disk)
  up() { read -r now rest < /proc/uptime; echo "\${now%.*}"; }
  until=$(($(up) + seconds + 1))
  while [ "$(up)" -lt $until ]; do
    dd if=/dev/zero of="$file" bs=1M count="$mib" conv=fsync 2>/dev/null || { echo 'the disk takes no more' >&2; end; exit 1; }
  done ;;
esac
end
exit 0
`;

export function loadCommand({ kind, cpus, memoryMiB, seconds, startMs }: LoadOrder): string[] {
  const hundredths = Math.round(cpus * 100);
  const words = [kind, seconds, Math.floor(hundredths / 100), hundredths % 100, memoryMiB, startMs ?? 0];
  return ['sh', '-c', script, 'load', ...words.map(String)];
}

/** Seconds that the guest's shell says its children took: the last line of `times`; null: it says nothing of the kind. */
export function parseTimes(output: string): number | null {
  const match = /(?:^|\n)(\d{1,6})m(\d{1,2}(?:\.\d{1,6})?)s (\d{1,6})m(\d{1,2}(?:\.\d{1,6})?)s\s*$/.exec(output.slice(-200));
  if (match === null) return null;
  const [, userM, userS, systemM, systemS] = match.map(Number);
  return Math.round((60 * (userM! + systemM!) + userS! + systemS!) * 1000) / 1000;
}
