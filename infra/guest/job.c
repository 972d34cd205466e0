/*
 * berth-job: runs a task's command in its guest, once. One small process does what a shell needs a dozen for, each of
 * which costs an emulated guest 10 ms.
 *
 *   berth-job run FOLDER HOME SECONDS GRACE LIMIT [NAME=VALUE …] "" PROGRAM [ARG …]
 *   berth-job stop FOLDER GRACE
 *
 * `run` makes FOLDER, which decides who starts: where it is there already, somebody else has, and it ends at once with
 * nothing said. Else it starts PROGRAM in HOME, as the leader of a session of its own, with its environment and the
 * given values; keeps at most LIMIT bytes of both its outputs; ends it after SECONDS with TERM, and GRACE seconds later
 * with KILL, and with it whatever is in its session; and says how that went, on standard output and in FOLDER/status, in
 * one line:
 *
 *   exit CODE TIMEDOUT STOPPED BEGAN ENDED LOGBYTES [SIGNAL LEFTOUT TAILBYTES TAILFROM]
 *                                                        CODE is 128 + its number for a signal; times since the boot
 *   absent                                               there is no such program
 *   directory                                            it is a directory
 *   notexecutable                                        it is a file without the right to execute it
 *   stopped                                              it was stopped before it started
 *
 * FOLDER/log has the begin of the output, LOGBYTES long. A host that knows the tail writes LIMIT with a + before it, which
 * programs without one read as the same number: then the last quarter of LIMIT is a ring, FOLDER/tail, for what the log has
 * no room for. TAILBYTES of it are kept; they begin at TAILFROM and go on at 0; before them LEFTOUT bytes are left out.
 * SIGNAL is the number of the signal that ended the command, or 0.
 *
 * A machine from a template isn't all that it is to be as long as there is /run/berth/adopting (see identity.c): `run`
 * waits for its end, ten seconds at most, and fails with what is in it.
 *
 * `stop` ends the command likewise and waits for the line. A FOLDER that isn't there is made: nothing starts any more.
 * Exit 0, or 1 with the reason on standard error.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A process that holds the log's end open isn't waited for longer than this after the command's end. */
enum { drain_ms = 2000, poll_ms = 20, kill_patience_ms = 5000, adoption_ms = 10000, adoption_poll_ms = 2 };

static _Noreturn void stop_with(const char *what) {
  fprintf(stderr, "berth-job: %s: %s\n", what, strerror(errno));
  exit(1);
}

static double uptime(void) {
  struct timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static long number(const char *word) {
  char *end;
  errno = 0;
  long value = strtol(word, &end, 10);
  if (errno != 0 || end == word || *end != '\0' || value < 0) {
    errno = EINVAL;
    stop_with(word);
  }
  return value;
}

static void await_adoption(void) {
  static const char *adopting = "/run/berth/adopting";
  char why[256] = "";
  for (int waited = 0; access(adopting, F_OK) == 0; waited += adoption_poll_ms) {
    if (waited < adoption_ms) {
      usleep(adoption_poll_ms * 1000);
      continue;
    }
    int file = open(adopting, O_RDONLY | O_CLOEXEC);
    if (file >= 0 && read(file, why, sizeof why - 1) < 0) stop_with(adopting);
    fprintf(stderr, "berth-job: this machine was not adopted in %d ms: %s\n", adoption_ms, why);
    exit(1);
  }
}

/* ---- the folder ---- */

/* Makes it, and the one above it. false: it is there, so somebody was first. */
static bool claim(const char *folder) {
  char above[PATH_MAX];
  snprintf(above, sizeof above, "%s", folder);
  char *slash = strrchr(above, '/');
  if (slash != NULL && slash != above) {
    *slash = '\0';
    if (mkdir(above, 0700) != 0 && errno != EEXIST) stop_with(above);
  }
  if (mkdir(folder, 0755) == 0) return true;
  if (errno != EEXIST) stop_with(folder);
  return false;
}

static bool is_there(const char *name) {
  return access(name, F_OK) == 0;
}

/* Beside it and renamed: who reads it reads all of it. */
static void write_whole(const char *name, const char *text) {
  char partial[NAME_MAX];
  snprintf(partial, sizeof partial, "%s.partial", name);
  int file = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0 || write(file, text, strlen(text)) != (ssize_t)strlen(text) || close(file) != 0) stop_with(partial);
  if (rename(partial, name) != 0) stop_with(name);
}

static void mark(const char *name) {
  int file = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (file < 0 || close(file) != 0) stop_with(name);
}

/* ---- the session ---- */

static bool is_in_session(const char *pid, pid_t session) {
  char path[64], stat[512];
  snprintf(path, sizeof path, "/proc/%.16s/stat", pid);
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  ssize_t length = read(file, stat, sizeof stat - 1);
  close(file);
  if (length <= 0) return false;
  stat[length] = '\0';
  /* After the name, which may hold anything: state, parent, group, session. */
  const char *rest = strrchr(stat, ')');
  int found;
  return rest != NULL && sscanf(rest + 1, " %*c %*d %*d %d", &found) == 1 && found == session;
}

/* To its leader's group, and to what made itself another group. */
static void signal_session(pid_t session, int number) {
  kill(-session, number);
  DIR *processes = opendir("/proc");
  if (processes == NULL) stop_with("/proc");
  for (struct dirent *entry; (entry = readdir(processes)) != NULL;) {
    if (entry->d_name[0] < '1' || entry->d_name[0] > '9') continue;
    if (is_in_session(entry->d_name, session)) kill((pid_t)atol(entry->d_name), number);
  }
  closedir(processes);
}

/* ---- the command ---- */

/* Why nothing is started, by its word in the status; the child tells its first letter. */
static const char *const refusals[] = {"absent", "directory", "notexecutable"};

/* 0, or the first letter of the refusal. */
static char refusal_of(const char *path) {
  struct stat found;
  if (stat(path, &found) != 0) return 'a';
  if (S_ISDIR(found.st_mode)) return 'd';
  return S_ISREG(found.st_mode) && access(path, X_OK) == 0 ? 0 : 'n';
}

/* Along PATH the first program counts; without one, a file that is none says more than that there is nothing. */
static char refusal_on_path(const char *name) {
  char found = 'a';
  if (*name == '\0') return found;
  if (strchr(name, '/') != NULL) return refusal_of(name);
  const char *path = getenv("PATH");
  for (const char *at = path == NULL ? "" : path; *at != '\0';) {
    char candidate[PATH_MAX];
    size_t length = strcspn(at, ":");
    snprintf(candidate, sizeof candidate, "%.*s/%s", (int)length, length == 0 ? "." : at, name);
    char refusal = refusal_of(candidate);
    if (refusal == 0) return 0;
    if (refusal == 'n') found = 'n';
    at += length + (at[length] == ':');
  }
  return found;
}

static void write_oom_score(const char *score) {
  int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  /* Without the right to it, or without such a file, the command and its keeper are equally likely to go. */
  if (file < 0) return;
  if (write(file, score, strlen(score)) < 0) errno = 0;
  close(file);
}

/* In the child. `absent` is told why when there is nothing to start; it closes by itself when the command begins. */
static _Noreturn void become(const char *home, char **env, char **argv, int output, int absent) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  write_oom_score("0");
  setsid();
  int input = open("/dev/null", O_RDONLY);
  if (input < 0 || dup2(input, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0) _exit(126);
  if (input > 2) close(input);
  if (chdir(home) != 0) {
    fprintf(stderr, "%s: %s\n", home, strerror(errno));
    _exit(126);
  }
  for (; **env != '\0'; env++) putenv(*env);
  char refusal = refusal_on_path(argv[0]);
  if (refusal != 0) {
    if (write(absent, &refusal, 1) == 1) _exit(127);
    _exit(127);
  }
  execvp(argv[0], argv);
  fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
  _exit(126);
}

struct job {
  pid_t child;
  /* -1 once everybody has closed the other end. */
  int output;
  int log;
  long room;
  long logged;
  /* -1 as long as the log has room. */
  int tail;
  /* The size of the ring; 0: no tail is kept. */
  long ring;
  /* How many bytes the log had no room for; the ring has the last of them, byte N at N % ring. */
  long beyond;
};

/* How many of these bytes a file takes at an offset. */
static long put(int file, const char *bytes, long length, long at) {
  long done = 0;
  while (done < length) {
    ssize_t more = pwrite(file, bytes + done, (size_t)(length - done), at + done);
    if (more < 0 && errno == EINTR) continue;
    if (more <= 0) break;
    done += more;
  }
  return done;
}

/* All of the ring is there before its first byte, so that a guest without room for it has none, not a part. */
static bool open_ring(struct job *job) {
  if (job->tail >= 0) return true;
  job->tail = open("tail", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  return job->tail >= 0 && posix_fallocate(job->tail, 0, job->ring) == 0;
}

/* Overwrites the oldest bytes of the ring. */
static void keep_tail(struct job *job, const char *bytes, long length) {
  long at = job->beyond;
  job->beyond += length;
  if (job->ring == 0) return;
  if (length > job->ring) {
    bytes += length - job->ring;
    at += length - job->ring;
    length = job->ring;
  }
  at %= job->ring;
  long first = length < job->ring - at ? length : job->ring - at;
  if (open_ring(job) && put(job->tail, bytes, first, at) == first && put(job->tail, bytes + first, length - first, 0) == length - first)
    return;
  job->ring = 0;
  unlink("tail");
}

/* What there is of the output, at most one piece of it; what neither the log nor the ring has room for is dropped. */
static void carry(struct job *job) {
  static char piece[65536];
  ssize_t length = read(job->output, piece, sizeof piece);
  if (length < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (length <= 0) {
    close(job->output);
    job->output = -1;
    return;
  }
  long wanted = length < job->room ? length : job->room;
  long taken = put(job->log, piece, wanted, job->logged);
  job->logged += taken;
  /* Where the guest has no room for more, the log ends early, which disturbs nobody. */
  job->room = taken < wanted ? 0 : job->room - taken;
  if (taken < length) keep_tail(job, piece + taken, length - taken);
}

/* Waits for output, a signal or the moment; carries what there is. */
static void wait_for(struct job *job, int signals, double until) {
  double left_ms = (until - uptime()) * 1000;
  int timeout = left_ms <= 0 ? 0 : left_ms > 3600e3 ? 3600000 : (int)left_ms + 1;
  struct pollfd fds[2] = {{.fd = job->output, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
  if (poll(fds, 2, timeout) <= 0) return;
  if (fds[0].revents != 0) carry(job);
  if (fds[1].revents != 0) {
    struct signalfd_siginfo info;
    if (read(signals, &info, sizeof info) < 0) return;
  }
}

/* Follows the command to its end, ends it when its time is over. Returns its status, as waitpid has it. */
static int follow(struct job *job, int signals, double deadline, double grace, bool *timed_out) {
  bool killed = false;
  for (;;) {
    int status;
    if (waitpid(job->child, &status, WNOHANG) == job->child) return status;
    double now = uptime();
    if (now >= deadline && !*timed_out) {
      *timed_out = true;
      signal_session(job->child, SIGTERM);
    }
    if (now >= deadline + grace && !killed) {
      killed = true;
      signal_session(job->child, SIGKILL);
    }
    wait_for(job, signals, *timed_out ? (killed ? now + 1 : deadline + grace) : deadline);
  }
}

static void say_status(const char *line) {
  mark("drained");
  write_whole("status", line);
  fputs(line, stdout);
  fflush(stdout);
}

/* SIGNAL and the tail, for a host that knows them. */
static void say_end(char *text, size_t size, const struct job *job, int ended_by) {
  long kept = job->beyond < job->ring ? job->beyond : job->ring;
  long from = job->beyond > kept && kept > 0 ? job->beyond % job->ring : 0;
  snprintf(text, size, " %d %ld %ld %ld", ended_by, job->beyond - kept, kept, from);
}

static int run(int count, char **words) {
  if (count < 7) {
    errno = EINVAL;
    stop_with("run");
  }
  const char *folder = words[0], *home = words[1];
  double seconds = (double)number(words[2]), grace = (double)number(words[3]);
  char **env = words + 5, **argv = env;
  while (*argv != NULL && **argv != '\0') argv++;
  if (*argv == NULL || *++argv == NULL) {
    errno = EINVAL;
    stop_with("no program");
  }
  await_adoption();
  if (!claim(folder)) return 0;
  if (chdir(folder) != 0) stop_with(folder);
  write_oom_score("-1000");
  signal(SIGPIPE, SIG_IGN);

  sigset_t child_ends;
  sigemptyset(&child_ends);
  sigaddset(&child_ends, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child_ends, NULL);
  int signals = signalfd(-1, &child_ends, SFD_CLOEXEC | SFD_NONBLOCK);
  int output[2], absent[2];
  if (signals < 0 || pipe2(output, O_CLOEXEC) != 0 || pipe2(absent, O_CLOEXEC) != 0) stop_with("starting");
  bool knows_tail = words[4][0] == '+';
  long limit = number(words[4]), ring = knows_tail ? limit / 4 : 0;
  struct job job = {.output = output[0], .room = limit - ring, .tail = -1, .ring = ring};
  job.log = open("log", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (job.log < 0) stop_with("log");

  double began = uptime();
  job.child = fork();
  if (job.child < 0) stop_with("fork");
  if (job.child == 0) become(home, env, argv, output[1], absent[1]);
  close(output[1]);
  close(absent[1]);
  char text[200], end[80] = "";
  snprintf(text, sizeof text, "%d\n", (int)job.child);
  write_whole("pid", text);

  bool timed_out = false;
  int status = follow(&job, signals, began + seconds, grace, &timed_out);
  double ended = uptime();
  int ended_by = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  int code = ended_by == 0 ? WEXITSTATUS(status) : 128 + ended_by;
  bool stopped = is_there("stopped");
  if (timed_out || stopped) signal_session(job.child, SIGKILL);
  else kill(-job.child, SIGKILL);
  while (job.output >= 0 && uptime() < ended + drain_ms / 1e3) wait_for(&job, signals, ended + drain_ms / 1e3);

  char refusal = 0;
  const char *refused = NULL;
  if (read(absent[0], &refusal, 1) == 1)
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++)
      if (refusals[i][0] == refusal) refused = refusals[i];
  if (knows_tail) say_end(end, sizeof end, &job, ended_by);
  if (refused != NULL) snprintf(text, sizeof text, "%s\n", refused);
  else snprintf(text, sizeof text, "exit %d %d %d %.2f %.2f %ld%s\n", code, timed_out, stopped, began, ended, job.logged, end);
  say_status(text);
  return 0;
}

static int stop(int count, char **words) {
  if (count != 2) {
    errno = EINVAL;
    stop_with("stop");
  }
  double grace = (double)number(words[1]);
  bool first = claim(words[0]);
  if (chdir(words[0]) != 0) stop_with(words[0]);
  if (first) {
    say_status("stopped\n");
    return 0;
  }
  if (is_there("status")) return 0;
  mark("stopped");
  pid_t child = 0;
  double since = uptime();
  for (bool killing = false; !is_there("status"); usleep(poll_ms * 1000)) {
    if (child == 0) {
      FILE *file = fopen("pid", "re");
      int found;
      if (file != NULL && fscanf(file, "%d", &found) == 1 && found > 1) {
        child = found;
        signal_session(child, SIGTERM);
      }
      if (file != NULL) fclose(file);
    }
    double passed = uptime() - since;
    if (passed > grace && child != 0 && !killing) {
      killing = true;
      signal_session(child, SIGKILL);
    }
    if (passed > grace + kill_patience_ms / 1e3) {
      errno = ETIMEDOUT;
      stop_with(words[0]);
    }
  }
  return 0;
}

int main(int count, char **words) {
  if (count > 2 && strcmp(words[1], "run") == 0) return run(count - 2, words + 2);
  if (count > 2 && strcmp(words[1], "stop") == 0) return stop(count - 2, words + 2);
  errno = EINVAL;
  stop_with("berth-job run|stop");
}
