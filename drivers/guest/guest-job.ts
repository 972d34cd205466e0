import { BerthError } from '../../model/errors.ts';
import { type GuestJob, type JobResult, lastSignal } from '../ports/guest.ts';

/**
 * Runs a task's command in a guest: by the program berth-job of our own images (infra/guest/job.c), else by a POSIX sh
 * script that Berth sends, because a foreign image has a sh and no program of ours. Under emulation the start of a program
 * costs 10 ms, and the script's dozen programs were most of a short task's overhead; so the script uses builtins wherever
 * there is one.
 *
 * Both write the folder `job`: `pid` (of the command, which leads its own session), `log` (both outputs, bounded),
 * `status` (one line, when the command has ended), `drained` (the log is complete). berth-job of this version also keeps the
 * end of a long output in `tail`.
 */
export const jobFolder = '/run/berth/job';
export const taskFolder = '/home/task';

/** Between TERM and KILL. */
const graceS = 5;

/** What every command finds in its environment, unless the task says otherwise. */
const baseEnv = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  HOME: '/root',
  USER: 'root',
  LOGNAME: 'root',
  SHELL: '/bin/sh',
};
export const scriptEnv: string[] = Object.entries(baseEnv).map(([name, value]) => `${name}=${value}`);

/** Sends a signal to the session of process $2: to its group, to it, and to processes of the session in other groups. */
const endSession = `
end_session() {
  kill "-$1" "-$2" "$2"
  for p in /proc/[0-9]*; do
    if read -r s 2>/dev/null <"$p/stat"; then in_session "$1" "$2" "\${p#/proc/}" \${s##*) }; fi
  done
}
in_session() { if [ "$7" = "$2" ] && [ "$3" != "$2" ]; then kill "-$1" "$3"; fi; }
`;

/**
 * Arguments: folder of the job, working folder, seconds, grace seconds, log limit in blocks of 512 bytes, NAME=value…,
 * an empty word, argv. The mkdir of the folder decides which call starts the job: a later one does nothing.
 */
const startScript = `${endSession}
job=$1 home=$2 limit_s=$3 grace_s=$4 blocks=$5; shift 5
[ -d "\${job%/*}" ] || mkdir -m 700 "\${job%/*}"
mkdir "$job" 2>/dev/null || { [ -d "$job" ]; exit; }
cd "$job" || exit
supervise() {
  read -r began rest </proc/uptime
  ( become "$@" ) &
  child=$!
  echo "$child" >pid
  ( sleep "$limit_s"; : >timedout; end_session TERM "$child"; sleep "$grace_s"; end_session KILL "$child" ) >/dev/null 2>&1 &
  watch=$!
  wait "$child"; code=$?
  read -r ended rest </proc/uptime
  kill "$watch"; kill -KILL "-$child"
  timedout=0; if [ -e timedout ]; then timedout=1; fi
  stopped=0; if [ -e stopped ]; then stopped=1; fi
  if [ -s absent ]; then cat absent >status; else echo "exit $code $timedout $stopped $began $ended" >status; fi
  # The watch may have been ended in the middle of its work.
  if [ "$timedout$stopped" != 00 ]; then end_session KILL "$child" >/dev/null; fi
} 2>/dev/null
become() {
  exec 2>&1
  # By its number: the command's environment may replace the variable.
  exec 8>"$job/absent"
  cd "$home" || exit 126
  unset OLDPWD
  while [ -n "$1" ]; do export "$1"; shift; done
  shift
  case $1 in
    */*)
      if [ -d "$1" ]; then refuse directory; elif ! [ -e "$1" ]; then refuse absent; fi
      if ! [ -f "$1" ] || ! [ -x "$1" ]; then refuse notexecutable; fi ;;
    *) ( find_on_path "$1" ) || exit 127 ;;
  esac
  exec 8>&-
  if [ -x /usr/bin/setsid ]; then exec /usr/bin/setsid "$@"; else exec /bin/setsid "$@"; fi
}
refuse() { echo "$1" >&8; exit 127; }
find_on_path() {
  IFS=: why=absent
  for p in $PATH; do
    if [ -f "$p/$1" ] && [ -x "$p/$1" ]; then exit 0; elif [ -f "$p/$1" ]; then why=notexecutable; fi
  done
  refuse "$why"
}
keep_log() {
  ( ulimit -f "$blocks"; trap '' XFSZ; exec cat >log ) || cat >/dev/null
  : >drained
}
{ supervise "$@" | keep_log; } </dev/null >/dev/null 2>&1 &
`;

/** Arguments: folder of the job, grace seconds. Where no job was started, creates the folder, so that none can be started. */
const stopScript = `${endSession}
job=$1
[ -d "\${job%/*}" ] || mkdir -m 700 "\${job%/*}"
if mkdir "$job" 2>/dev/null; then echo stopped >"$job/status"; : >"$job/drained"; exit 0; fi
cd "$job" || exit
if [ -e status ]; then exit 0; fi
: >stopped
until [ -s pid ]; do if [ -e status ]; then exit 0; fi; sleep 0.1; done
read -r child <pid
end_session TERM "$child" 2>/dev/null
left=$(( $2 * 10 ))
until [ -e status ]; do
  if [ "$left" -le 0 ]; then end_session KILL "$child" 2>/dev/null; fi
  if [ "$left" -le -50 ]; then exit 1; fi
  left=$((left - 1)); sleep 0.1
done
`;

export interface JobSettings {
  folder: string;
  home: string;
  graceS: number;
}

const guestJobSettings: JobSettings = { folder: jobFolder, home: taskFolder, graceS };

/** The two ways to run a job, as argv for the guest's agent. */
export interface JobRunner {
  start(job: GuestJob, settings?: JobSettings): string[];
  stop(settings?: JobSettings): string[];
}

/** `limit` is the log's, in the runner's unit. The job's environment is passed as arguments, so that it doesn't affect the runner. */
function jobArguments(job: GuestJob, settings: JobSettings, limit: string): string[] {
  const env = Object.entries(job.env).map(([name, value]) => `${name}=${value}`);
  return [settings.folder, settings.home, String(job.timeoutS), String(settings.graceS), limit, ...env, '', ...job.argv];
}

/** Ends when it has started the job. */
export const scriptJobRunner: JobRunner = {
  start: (job, settings = guestJobSettings) => [
    '/bin/sh',
    '-c',
    startScript,
    'berth-job',
    ...jobArguments(job, settings, String(Math.ceil(job.logLimitBytes / 512))),
  ],
  stop: (settings = guestJobSettings) => ['/bin/sh', '-c', stopScript, 'berth-stop', settings.folder, String(settings.graceS)],
};

/** Ends with the job and prints its status, unless another call has started it. */
export const programJobRunner = (path = '/usr/local/sbin/berth-job'): JobRunner => ({
  // The + asks for the tail; a program that keeps none reads the same number.
  start: (job, settings = guestJobSettings) => [path, 'run', ...jobArguments(job, settings, `+${job.logLimitBytes}`)],
  stop: (settings = guestJobSettings) => [path, 'stop', settings.folder, String(settings.graceS)],
});

/** By the word in `status`. */
const notStartedReasons: Record<string, (program: string) => string> = {
  absent: (program) =>
    `there is no program ${program}, neither in the image nor among the inputs; a path is relative to ${taskFolder}`,
  directory: (program) => `the program ${program} is a directory`,
  notexecutable: (program) =>
    `the program ${program} is a file without the right to execute it: chmod it first, or run it by its interpreter (sh, python3)`,
  stopped: () => 'it was stopped before it started',
};

/** The longest line that berth-job writes is half as long. */
const statusBytes = 256;

/**
 * Reads `status`; null as long as its line isn't complete. Only berth-job writes the length of the log. The guest can write
 * anything there: `guest-invalid` for what berth-job never writes. That the values can be true is for the caller to check.
 */
export function parseJobStatus(text: string, program: string): JobResult | null {
  const line = text.slice(0, statusBytes);
  if (text.length > statusBytes || /\n./s.test(line)) throw invalidStatus(line);
  if (!line.endsWith('\n')) return null;
  const word = line.slice(0, -1);
  // Own names only: the guest may write `constructor`.
  if (Object.hasOwn(notStartedReasons, word)) return { kind: 'notStarted', why: notStartedReasons[word]!(program) };
  const match = exitLine.exec(line);
  if (match === null) throw invalidStatus(line);
  const [, code, timedOut, stopped, began, ended, logBytes, signal, leftOut, tailBytes, tailFrom] = match;
  const end = signal === undefined ? untold : endAsTold(Number(code), Number(signal), [leftOut, tailBytes, tailFrom].map(Number));
  if (end === null) throw invalidStatus(line);
  return {
    kind: 'exited',
    exitCode: Number(code),
    timedOut: timedOut === '1',
    stopped: stopped === '1',
    seconds: Number(ended) - Number(began),
    logBytes: logBytes === undefined ? null : Number(logBytes),
    ...end,
  };
}

/** The last four are absent where the program is of an earlier version. */
const exitLine =
  /^exit (\d{1,3}) ([01]) ([01]) (\d{1,12}\.\d{1,9}) (\d{1,12}\.\d{1,9})(?: (\d{1,15})(?: (\d{1,2}) (\d{1,15}) (\d{1,15}) (\d{1,15}))?)?\n$/;

type EndAsTold = Pick<Extract<JobResult, { kind: 'exited' }>, 'signal' | 'tail'>;
const untold: EndAsTold = { signal: 'unknown', tail: null };

/** null: berth-job never writes this. A signal and the exit code for it are written together; a tail begins within itself. */
function endAsTold(exitCode: number, signal: number, [leftOutBytes = 0, bytes = 0, from = 0]: number[]): EndAsTold | null {
  if (signal > lastSignal || (signal > 0 && exitCode !== 128 + signal)) return null;
  if (from > 0 && from >= bytes) return null;
  return { signal: signal === 0 ? null : signal, tail: { leftOutBytes, bytes, from } };
}

const invalidStatus = (found: string): BerthError =>
  new BerthError('guest-invalid', `reading how the command ended: the guest reports ${JSON.stringify(found.slice(0, 100))}`);
