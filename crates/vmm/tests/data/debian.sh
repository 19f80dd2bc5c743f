# What runs in a Debian user land, on the software CPU and on the host's own. It prints nothing that
# depends on time, place or version, and numbers only as far as every CPU agrees on them: the C
# library takes other paths to the last digit where there is FMA.
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
cd /tmp || exit 1

echo "----- begin"

declare -A words
for ((i = 0; i < 5000; i++)); do
    words[$((i * 7919 % 101))]+=x
done
text=$(for key in "${!words[@]}"; do echo "$key ${#words[$key]}"; done | sort -n | head -n 3)
echo "bash" $text $((0x7fffffffffffffff / 12345)) "${text//0/o}"
printf '%s\n' {1..2000} | sort -r | sed -n '/7$/p' | awk '{ s += $1 * $1 } END { print "pipe", s, NR }'

perl -e '
    my %h; $h{$_ % 97} += $_ for 1..100000;
    print "perl ", join(",", map { $h{$_} } 0..4), "\n";
    printf "perl %.12g %.12g %.12g %.12g\n", atan2(1, 1) * 4, sqrt(2), exp(1), sin(1e5);
    my $s = join " ", map { $_ * $_ } 1..300; my $n = () = $s =~ /(\d)\1/g; print "perl $n\n";
'
python3 -c '
import hashlib, math
print("python", sum(i * i for i in range(100000)), 3 ** 200 % 10 ** 20, "%.12g" % math.lgamma(10.5))
print("python", hashlib.sha256(b"x" * 100000).hexdigest(), sorted("%x" % (i * 2654435761 % 2 ** 32) for i in range(99))[50])
try:
    1 // 0
except ZeroDivisionError as error:
    print("python", error)
'

cat > probe.c <<'C'
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile sig_atomic_t alarms;
static void on_fault(int number) { siglongjmp(back, number); }
static void on_alarm(int number) { alarms++; }

static int order(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void integers(void) {
    uint64_t a = 0x9E3779B97F4A7C15u, sum = 0;
    for (int i = 0; i < 100000; i++) {
        a ^= a << 13; a ^= a >> 7; a ^= a << 17;
        sum += a / (i + 1) + __builtin_popcountll(a) + (int64_t)a % (i + 3);
    }
    unsigned __int128 wide = (unsigned __int128)a * sum;
    printf("C %016lx %016lx %016lx\n", (long)sum, (long)(wide >> 64), (long)wide);
    static uint32_t table[20000];
    for (int i = 0; i < 20000; i++) table[i] = (uint32_t)(a = a * 6364136223846793005u + 1442695040888963407u);
    qsort(table, 20000, 4, order);
    printf("C qsort %08x %08x %08x\n", table[0], table[10000], table[19999]);
}

static void floats(void) {
    double d = 0; float f = 0; long double l = 1;
    for (int i = 1; i <= 20000; i++) { d += 1.0 / i; f += 1.0f / i; }
    for (int i = 1; i < 60; i++) l = l * i / 3 + sqrtl(i);
    printf("C double %.17g float %.9g long %.21Lg\n", d, f, l);
    printf("C %.12g %.12g %.12Lg %a %La\n", pow(1.5, 2.5), log(10), sinl(2), 0.1, 1.0L / 3);
    printf("C %d %ld %d %d\n", (int)lrint(2.5), lround(-2.5), isnan(0.0 / (d - d)), (int)fmod(1e9 + 7, 1000));
}

static void faults(void) {
    volatile int zero = 0, many = 12345, *nowhere = 0;
    signal(SIGFPE, on_fault); signal(SIGSEGV, on_fault); signal(SIGILL, on_fault); signal(SIGTRAP, on_fault);
    int number;
    if ((number = sigsetjmp(back, 1)) == 0) printf("%d", many / zero); else printf("C signal %d\n", number);
    if ((number = sigsetjmp(back, 1)) == 0) *nowhere = 1; else printf("C signal %d\n", number);
    if ((number = sigsetjmp(back, 1)) == 0) __builtin_trap(); else printf("C signal %d\n", number);
    if ((number = sigsetjmp(back, 1)) == 0) __asm__ volatile("int3"); else printf("C signal %d\n", number);
    signal(SIGALRM, on_alarm);
    struct itimerval timer = { { 0, 2000 }, { 0, 2000 } };
    setitimer(ITIMER_REAL, &timer, 0);
    double x = 1; uint64_t rounds = 0;
    while (alarms < 5) { x = x * 1.0000001 + sqrt(x) / 1e9; rounds++; }
    memset(&timer, 0, sizeof timer); setitimer(ITIMER_REAL, &timer, 0);
    printf("C alarms %d\n", x > 1 && rounds > 0);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t guarded, atomic;
static void *work(void *start) {
    for (int i = 0; i < 20000; i++) {
        pthread_mutex_lock(&lock); guarded += (uintptr_t)start; pthread_mutex_unlock(&lock);
        __atomic_fetch_add(&atomic, 3, __ATOMIC_SEQ_CST);
    }
    return (void *)((uintptr_t)start * 2);
}
static void threads(void) {
    pthread_t all[4]; uintptr_t sum = 0; void *result;
    for (uintptr_t i = 0; i < 4; i++) pthread_create(&all[i], 0, work, (void *)(i + 1));
    for (int i = 0; i < 4; i++) { pthread_join(all[i], &result); sum += (uintptr_t)result; }
    printf("C threads %lu %lu %lu\n", (long)guarded, (long)atomic, (long)sum);
}

int main(void) { integers(); floats(); faults(); threads(); return 0; }
C
gcc -O2 -pthread -o probe probe.c -lm && ./probe
echo "gcc $?"

for digest in md5 sha1 sha256 sha512 sha3-256 blake2b512; do
    printf 'sparkler%.0s' {1..2000} | openssl dgst -$digest | sed "s/^.*= */$digest /"
done
printf 'secret%.0s' {1..5000} > plain
for cipher in aes-128-cbc aes-256-ctr camellia-192-cbc chacha20; do
    openssl enc -$cipher -pbkdf2 -S 0011223344556677 -k pw -in plain -out sealed
    openssl enc -d -$cipher -pbkdf2 -S 0011223344556677 -k pw -in sealed | cmp - plain
    echo "$cipher $? $(openssl dgst -sha256 sealed | sed 's/.*= *//')"
done
openssl genpkey -algorithm ed25519 -out key 2>&1
openssl pkeyutl -sign -rawin -inkey key -in plain -out sign
openssl pkeyutl -verify -rawin -inkey key -in plain -sigfile sign
for algorithm in sha256 aes-128-gcm rsa2048 ecdsap256; do
    case $algorithm in aes-128-gcm) evp=-evp ;; *) evp= ;; esac
    openssl speed -seconds 1 -bytes 1024 $evp $algorithm > speed 2>&1
    echo "speed $algorithm $? $(grep -ci 'failure' speed)"
done
echo "----- end"
