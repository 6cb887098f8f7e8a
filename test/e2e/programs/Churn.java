import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.concurrent.ConcurrentSkipListMap;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;

/**
 * Churn keeps a heap busy: four threads replace parts of what they hold and drop the rest, virtual threads meet in a
 * shared map, a timer ticks. Its result depends on the number of steps alone.
 */
public final class Churn {
    private static final int THREADS = 4, HELD = 700, SLICES = 5;

    private final int steps = Integer.parseInt(System.getenv("STEPS")), hold = Integer.parseInt(System.getenv("HOLD"));
    private final long pauseNanos = (long) (Double.parseDouble(System.getenv("PAUSE")) * 1e9 / SLICES);
    private final String token = HexFormat.of().toHexDigits(new SecureRandom().nextLong());
    private final byte[][] results = new byte[THREADS][];
    private final ConcurrentSkipListMap<Integer, Long> met = new ConcurrentSkipListMap<>();
    private final AtomicLong ticks = new AtomicLong();
    private volatile boolean hurry = pauseNanos == 0;
    private int step;

    public static void main(String[] args) throws Exception {
        new Churn().run();
    }

    private void run() throws Exception {
        var timer = Executors.newScheduledThreadPool(1);
        timer.scheduleAtFixedRate(ticks::incrementAndGet, 1, 1, TimeUnit.MILLISECONDS);
        var turn = new CyclicBarrier(THREADS, this::endOfStep);
        try (var pool = Executors.newFixedThreadPool(THREADS)) {
            List<Future<?>> all = new ArrayList<>();
            for (int t = 0; t < THREADS; t++) {
                int thread = t;
                all.add(pool.submit(() -> { work(thread, turn); return null; }));
            }
            for (var one : all) {
                one.get();
            }
        }
        long before = ticks.get();
        while (ticks.get() < before + 2) {
            LockSupport.parkNanos(1_000_000);
        }
        timer.shutdown();
        var sum = MessageDigest.getInstance("SHA-256");
        for (byte[] result : results) {
            sum.update(result);
        }
        met.forEach((key, value) -> sum.update((key + "=" + value + ";").getBytes()));
        Files.writeString(Path.of("/dev/termination-log"), HexFormat.of().formatHex(sum.digest()));
    }

    private void work(int thread, CyclicBarrier turn) throws Exception {
        var random = new SplittableRandom(thread);
        var sum = MessageDigest.getInstance("SHA-256");
        Map<Integer, byte[]> held = new HashMap<>();
        for (int n = 1; n <= steps; n++) {
            for (int slice = 0; slice < SLICES; slice++) {
                for (int i = 0; i < 40; i++) {
                    var block = new byte[1024 + random.nextInt(4096)];
                    random.nextBytes(block);
                    var old = held.put(random.nextInt(HELD), block);
                    if (old != null) {
                        sum.update(old, 0, 64);
                    }
                }
                if (!hurry) {
                    LockSupport.parkNanos(pauseNanos);
                }
            }
            meet(thread, n);
            turn.await();
        }
        held.keySet().stream().sorted().forEach(key -> sum.update(held.get(key)));
        results[thread] = sum.digest();
    }

    private void meet(int thread, int n) throws Exception {
        try (var threads = Executors.newVirtualThreadPerTaskExecutor()) {
            for (int v = 0; v < 20; v++) {
                int value = thread * 1000 + v;
                threads.submit(() -> met.merge(value % 97, (long) value * n, Long::sum));
            }
        }
    }

    /** Tells of the step and, from hold on, does not return before the file hurry is there. */
    private void endOfStep() {
        step++;
        System.out.println("n=" + step + " token=" + token);
        do {
            hurry = pauseNanos == 0 || Files.exists(Path.of("/data/hurry"));
            LockSupport.parkNanos(hurry ? 0 : 1_000_000);
        } while (!hurry && step >= hold);
    }
}
