/* The threads that take requests from the device. One more is started whenever none is left waiting. */

#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { STACK = 1 << 20 }; /* bytes; Python is called on it */

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
    clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
    return time.tv_sec * 1000000000ll + time.tv_nsec;
}

/* A second way to the same connection, with a queue of its own; the first where the kernel gives none. */
static int clone_device(int device)
{
    uint32_t source = (uint32_t)device;
    int clone = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (clone >= 0 && ioctl(clone, FUSE_DEV_IOC_CLONE, &source) == 0)
        return clone;
    if (clone >= 0)
        close(clone);
    return device;
}

static bool start_worker(session *session);

static void serve(worker *worker)
{
    session *session = worker->session;
    while (!session->stop) {
        atomic_fetch_add(&session->idle, 1);
        ssize_t length = read(worker->device, worker->request, sizeof worker->request);
        int error = errno;
        int left = atomic_fetch_sub(&session->idle, 1) - 1;
        if (length < 0) {
            /* ENOENT: the request was taken back before it was read. Else the mount has ended. */
            if (error != ENOENT && error != EINTR && error != EAGAIN)
                session->stop = true;
            continue;
        }
        session->last_request = now();
        if (!left)
            start_worker(session);
        handle(worker, (size_t)length);
    }
}

static void worker_free(worker *worker)
{
    if (worker->device != worker->session->device)
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
    serve(worker);
    caller_end(&worker->caller);
    pthread_mutex_lock(&session->lock);
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
            made->device = session->started ? clone_device(session->device) : session->device;
            started = start_thread(made);
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
    return start_worker(session);
}

bool session_end(session *session, int seconds)
{
    session->stop = true;
    for (int wait = 0; wait < seconds * 100; wait++) {
        pthread_mutex_lock(&session->lock);
        int running = session->running;
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
