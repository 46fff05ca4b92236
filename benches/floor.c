/* The floor of this way of reading: libvirt.so alone, with threads and nothing around it.
 *
 *   floor URI reckoned|asked THREADS
 *
 * Each thread has a connection and takes one whole guest after the other: the bulk call, the XML
 * and, where sizes are asked, virDomainGetBlockInfo of each disk that the bulk call names. What
 * comes back is thrown away. Like the process in agent.py, this one reads the guests' UUIDs and
 * then, for each line, goes through a cycle and tells what it has used. */

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* The groups that virtmeter asks for. */
enum { GROUPS = VIR_DOMAIN_STATS_STATE | VIR_DOMAIN_STATS_VCPU | VIR_DOMAIN_STATS_BALLOON |
                VIR_DOMAIN_STATS_PERF | VIR_DOMAIN_STATS_INTERFACE | VIR_DOMAIN_STATS_BLOCK };

struct worker { virConnectPtr conn; virDomainPtr *domains; };

static int asked, count;
static atomic_int next_guest, calls;

static void check(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "floor: %s: %s\n", what, virGetLastErrorMessage());
        exit(1);
    }
}

static void read_sizes(virDomainPtr domain, virDomainStatsRecordPtr stats)
{
    virDomainBlockInfo info;
    for (int i = 0; i < stats->nparams; i++) {
        virTypedParameterPtr p = &stats->params[i];
        size_t length = strlen(p->field);
        if (strncmp(p->field, "block.", 6) || length < 5 || strcmp(p->field + length - 5, ".name"))
            continue;
        check(virDomainGetBlockInfo(domain, p->value.s, &info, 0) == 0, "virDomainGetBlockInfo");
        calls++;
    }
}

static void read_guest(virDomainPtr domain)
{
    virDomainPtr one[] = {domain, NULL};
    virDomainStatsRecordPtr *stats;
    check(virDomainListGetStats(one, GROUPS, &stats, 0) == 1, "virDomainListGetStats");
    char *xml = virDomainGetXMLDesc(domain, 0);
    check(xml != NULL, "virDomainGetXMLDesc");
    calls += 2;
    if (asked)
        read_sizes(domain, stats[0]);
    free(xml);
    virDomainStatsRecordListFree(stats);
}

static void *work(void *worker)
{
    for (int guest; (guest = next_guest++) < count;)
        read_guest(((struct worker *)worker)->domains[guest]);
    return NULL;
}

static double seconds(struct timeval t) { return t.tv_sec + t.tv_usec / 1e6; }

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static long resident(void)
{
    long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (statm == NULL || fscanf(statm, "%*s %ld", &pages) != 1)
        exit(1);
    fclose(statm);
    return pages * sysconf(_SC_PAGESIZE);
}

/* The list of UUIDs is JSON, in which nothing else is a quoted word. */
static char **read_uuids(void)
{
    static char *line;
    size_t room = 0;
    char **uuids = NULL;
    if (getline(&line, &room, stdin) < 0)
        exit(1);
    for (char *word = strtok(line, "[]\", \n"); word; word = strtok(NULL, "[]\", \n")) {
        uuids = realloc(uuids, (count + 1) * sizeof *uuids);
        uuids[count++] = word;
    }
    return uuids;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    asked = strcmp(argv[2], "asked") == 0;
    int threads = atoi(argv[3]);
    char **uuids = read_uuids();
    struct worker workers[threads];
    for (int i = 0; i < threads; i++) {
        workers[i].conn = virConnectOpenReadOnly(argv[1]);
        check(workers[i].conn != NULL, "virConnectOpenReadOnly");
        workers[i].domains = calloc(count, sizeof(virDomainPtr));
        for (int guest = 0; guest < count; guest++) {
            workers[i].domains[guest] = virDomainLookupByUUIDString(workers[i].conn, uuids[guest]);
            check(workers[i].domains[guest] != NULL, "virDomainLookupByUUIDString");
        }
    }
    printf("%ld\n", resident());
    fflush(stdout);

    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    for (int c; (c = getchar()) != EOF;) {
        if (c != '\n')
            continue;
        pthread_t running[threads];
        next_guest = calls = 0;
        double began = now();
        for (int i = 0; i < threads; i++)
            check(pthread_create(&running[i], NULL, work, &workers[i]) == 0, "pthread_create");
        for (int i = 0; i < threads; i++)
            pthread_join(running[i], NULL);
        double wall = now() - began;
        getrusage(RUSAGE_SELF, &after);
        printf("{\"instances\": %d, \"wall\": %.9f, \"cpu\": %.6f, \"resident\": %ld, "
               "\"calls\": %d, \"switches\": %ld}\n",
               count, wall,
               seconds(after.ru_utime) + seconds(after.ru_stime)
                   - seconds(before.ru_utime) - seconds(before.ru_stime),
               resident(), calls,
               after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw);
        fflush(stdout);
        before = after;
    }
    return 0;
}
