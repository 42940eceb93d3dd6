/* The threads that take requests from the device and answer them.

   A single reader is served by one of them alone, which looks for the next request for a while before it falls asleep:
   for short requests, waking a thread takes longer than the answer. Where requests take long or several readers wait,
   each thread leaves the device to another one before it answers, and all that have nothing to do sleep there. */

#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum {
    STACK = 1 << 20, /* bytes; Python is called on it */
    AWAKE = 100000,  /* ns of looking for the next request before sleeping until it comes */
    MOST_LOAD = 16,
};

static _Thread_local worker *self;

/* Ends a thread's wait for a request. */
static int wake_signal(void)
{
    return SIGRTMIN + 5;
}

static void nothing(int number)
{
    (void)number;
}

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ll + time.tv_nsec;
}

/* A second way to the same connection, with a queue of its own; -1 where the kernel gives none. */
static int clone_device(int device)
{
    uint32_t source = (uint32_t)device;
    int clone = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (clone < 0 || ioctl(clone, FUSE_DEV_IOC_CLONE, &source) == 0)
        return clone;
    close(clone);
    return -1;
}

static bool start_worker(session *session);

/* Waits until it is wanted at the device; false once the mount has ended. */
static bool watch(worker *worker)
{
    session *session = worker->session;
    pthread_mutex_lock(&session->lock);
    session->watching -= worker->watches;
    session->idle++;
    while (session->watching && !session->load && !session->stop)
        pthread_cond_wait(&session->wanted, &session->lock);
    session->idle--;
    session->watching++;
    worker->watches = true;
    pthread_mutex_unlock(&session->lock);
    return !session->stop;
}

/* Leaves the device to others; whether there is one. */
static bool leave(worker *worker)
{
    session *session = worker->session;
    pthread_mutex_lock(&session->lock);
    worker->watches = false;
    bool others = --session->watching || session->idle;
    if (!session->watching && session->idle)
        pthread_cond_signal(&session->wanted);
    pthread_mutex_unlock(&session->lock);
    return others || start_worker(session);
}

bool may_take_long(void)
{
    if (!self)
        return true;
    self->takes_long = true;
    return !self->watches || leave(self);
}

static bool is_waiting(const worker *worker)
{
    struct pollfd device = {.fd = worker->device, .events = POLLIN};
    return poll(&device, 1, 0) > 0;
}

static void set_blocking(worker *worker, bool blocking)
{
    if (worker->blocking != blocking)
        fcntl(worker->device, F_SETFL, blocking ? O_RDWR : O_RDWR | O_NONBLOCK);
    worker->blocking = blocking;
}

/* Whoever has just asked mostly asks again before a thread would have fallen asleep and been woken. */
static ssize_t take_request(worker *worker)
{
    session *session = worker->session;
    long long began = now(), last;
    bool awake = session->awake && session->watching == 1;
    ssize_t length;
    set_blocking(worker, !awake);
    do {
        length = read(worker->device, worker->request, sizeof worker->request);
        last = now();
    } while (awake && length < 0 && errno == EAGAIN && last - began < AWAKE);
    if (awake && length < 0 && errno == EAGAIN) {
        set_blocking(worker, true);
        length = read(worker->device, worker->request, sizeof worker->request);
        last = now();
    }
    session->awake = session->processors > 1 && last - began < AWAKE;
    session->last_request = last;
    return length;
}

static void note_load(session *session, bool takes_long)
{
    int load = session->load + (takes_long ? 1 : -1);
    session->load = load < 0 ? 0 : load < MOST_LOAD ? load : MOST_LOAD;
}

static void serve(worker *worker)
{
    session *session = worker->session;
    while (watch(worker)) {
        ssize_t length = take_request(worker);
        if (length < 0) {
            /* ENOENT: the request was taken back before it was read. Else the mount has ended. */
            if (errno != ENOENT && errno != EINTR && errno != EAGAIN)
                session->stop = true;
            continue;
        }
        worker->takes_long = false;
        if (session->load)
            leave(worker);
        else if (is_waiting(worker))
            may_take_long();
        handle(worker, (size_t)length);
        note_load(session, worker->takes_long);
    }
}

static void worker_free(worker *worker)
{
    if (worker->device >= 0 && worker->device != worker->session->device)
        close(worker->device);
    reader_clear(&worker->reader);
    free(worker->reply.bytes);
    free(worker->answer.bytes);
    free(worker);
}

static void *work(void *argument)
{
    worker *worker = argument;
    session *session = worker->session;
    self = worker;
    serve(worker);
    caller_end(&worker->caller);
    pthread_mutex_lock(&session->lock);
    pthread_cond_broadcast(&session->wanted);
    worker->over = true;
    bool last = --session->running == 0;
    pthread_mutex_unlock(&session->lock);
    if (last)
        (void)!write(session->ended, "", 1); /* a pipe that is full wakes its reader too */
    return NULL;
}

static bool start_thread(worker *worker)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, wake_signal());
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = pthread_create(&worker->thread, &attributes, work, worker) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return started;
}

static bool start_worker(session *session)
{
    bool started = false;
    pthread_mutex_lock(&session->lock);
    if (session->started < MAX_THREADS && !session->stop) {
        worker *made = calloc(1, sizeof *made);
        if (made) {
            made->session = session;
            made->blocking = true;
            made->device = session->started ? clone_device(session->device) : session->device;
            started = made->device >= 0 && start_thread(made);
            if (started) {
                session->workers[session->started++] = made;
                session->running++;
            } else {
                worker_free(made);
            }
        }
    }
    pthread_mutex_unlock(&session->lock);
    return started;
}

bool session_start(session *session)
{
    struct sigaction action = {.sa_handler = nothing};
    sigaction(wake_signal(), &action, NULL);
    session->last_request = now();
    session->processors = sysconf(_SC_NPROCESSORS_ONLN);
    return start_worker(session);
}

bool session_end(session *session, int seconds)
{
    session->stop = true;
    for (int wait = 0; wait < seconds * 100; wait++) {
        pthread_mutex_lock(&session->lock);
        int running = session->running;
        pthread_cond_broadcast(&session->wanted);
        for (int i = 0; i < session->started; i++)
            if (!session->workers[i]->over)
                pthread_kill(session->workers[i]->thread, wake_signal());
        pthread_mutex_unlock(&session->lock);
        if (!running)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    if (session->running)
        return false;
    for (int i = 0; i < session->started; i++) {
        pthread_join(session->workers[i]->thread, NULL);
        worker_free(session->workers[i]);
    }
    session->started = 0;
    return true;
}
