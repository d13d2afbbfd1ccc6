/* Pendulum-v1 held up by an exported policy, in real time: the equations of the environment stand for your robot.
 *
 *     t3d train Pendulum-v1 --steps 20_000
 *     t3d export runs/Pendulum-v1/pendulum-s0 --format c --out controller
 *     cc -std=c99 -O2 -Icontroller examples/pendulum.c -o pendulum -lm
 *     ./pendulum 10
 *
 * It decides 20 times a second, as in training, for so many seconds, and counts the moments that came late. With a
 * second argument, an angle to begin at (0 is upright, 3.1416 hangs), it waits for nothing and prints what a check
 * compares: the sum of rewards, and for how many seconds at the end the pendulum was upright.
 */
#define _POSIX_C_SOURCE 200112L
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "policy.h"

#define HZ 20
#define LATE_NS 1000000 /* a moment that comes more than a millisecond late counts */

static const double pi = 3.14159265358979323846;

struct pendulum {
    double angle, speed; /* rad, 0 is upright; rad/s */
};

static double clipped(double x, double most)
{
    return x < -most ? -most : x > most ? most : x;
}

/* Gymnasium's equations: gravity 10, mass and length 1, a step of 0.05 s, speed up to 8, torque up to 2. */
static double step(struct pendulum *p, double torque)
{
    const double u = clipped(torque, 2.0);
    const double from_top = fmod(fmod(p->angle + pi, 2 * pi) + 2 * pi, 2 * pi) - pi;
    const double reward = -(from_top * from_top + 0.1 * p->speed * p->speed + 0.001 * u * u);
    p->speed = clipped(p->speed + (15.0 * sin(p->angle) + 3.0 * u) * 0.05, 8.0);
    p->angle += p->speed * 0.05;
    return reward;
}

static long long ns_since(const struct timespec *due)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec - due->tv_sec) * 1000000000LL + (now.tv_nsec - due->tv_nsec);
}

int main(int argc, char **argv)
{
    const double seconds = argc > 1 ? atof(argv[1]) : 10.0;
    const int in_real_time = argc < 3;
    struct pendulum p = {argc > 2 ? atof(argv[2]) : 3.0, 0.0}; /* 3.0: hangs, nearly */
    float obs[T3D_POLICY_OBS_SIZE], action[T3D_POLICY_ACTION_SIZE] = {0.0f};
    int held = 0, late = 0, upright = 0, steps = (int)(seconds * HZ);
    long long worst_ns = 0;
    double sum = 0.0;
    struct timespec due;
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (int i = 0; i < steps; i++) {
        obs[0] = (float)cos(p.angle);
        obs[1] = (float)sin(p.angle);
        obs[2] = (float)p.speed;
        held += t3d_policy_act(obs, action);
        sum += step(&p, action[0]);
        upright = cos(p.angle) > 0.95 ? upright + 1 : 0;
        if (!in_real_time) {
            continue;
        }
        due.tv_nsec += 1000000000 / HZ;
        if (due.tv_nsec >= 1000000000) {
            due.tv_nsec -= 1000000000;
            due.tv_sec++;
        }
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR) {
        }
        const long long ns = ns_since(&due);
        late += ns > LATE_NS;
        worst_ns = ns > worst_ns ? ns : worst_ns;
    }
    if (in_real_time) {
        printf("%d of %d moments late, the worst by %.3f ms; %d actions held; upright for the last %.2f s\n", late, steps,
               (double)worst_ns / 1e6, held, (double)upright / HZ);
    } else {
        printf("%.9g %.2f\n", sum, (double)upright / HZ);
    }
    return 0;
}
